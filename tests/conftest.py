"""Settings of the whole suite."""

import os
import signal

# The models here are tiny: threads cost more than they bring, and far more where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# With several threads on busy cores, a thread that spins while it waits holds the core that the others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts a command in the background with Ctrl-C ignored, and every process that a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
