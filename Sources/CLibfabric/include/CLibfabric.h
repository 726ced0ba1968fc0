#pragma once
#include <rdma/fabric.h>
