"""Settings of the whole suite."""

import os

# The models here are tiny: threads cost more than they bring, and far more where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
