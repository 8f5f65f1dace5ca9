"""paystorm: screens payment event streams for fraud, on Apache Storm or on one machine alone."""

import os

__version__ = "0.1.0"

# polars' allocator gives memory back once it has not been used for ten seconds, and not for one: the same pages are
# needed again with the next chunk, and taking them anew costs four percent of the rate. Read when polars is loaded.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:10000,muzzy_decay_ms:10000")
# numpy's BLAS, which nothing here calls, would keep a thread of its own waiting at work. Read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
