// The program has libFuzzer's main, which calls FuzzTargets. A Swift target would bring its own.
