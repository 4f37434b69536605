"""Peak memory of a process started by a test."""

# An expression for the child's own code, in bytes. `ru_maxrss` will not do: it starts from the memory of the process
# that forked, which in a long test run is more than a gigabyte.
PEAK_MEMORY = 'int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024'
