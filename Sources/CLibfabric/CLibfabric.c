#include "CLibfabric.h"
