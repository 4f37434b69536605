"""Settings of the whole suite."""

import getpass
import os
import signal
import tempfile
from pathlib import Path

# The models here are tiny: threads cost more than they bring, and far more where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# With several threads on busy cores, a thread that spins while it waits holds the core that the others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# torch.compile reuses code that it wrote for a processor with other instructions, which then does not build.
if instructions := os.environ.get("ATEN_CPU_CAPABILITY"):
    cache = Path(tempfile.gettempdir()) / f"torchinductor-{getpass.getuser()}-{instructions}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# A shell starts a command in the background with Ctrl-C ignored, and every process that a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
