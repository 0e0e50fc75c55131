"""The zoo of faults: ``python -m tests.faults`` plants each and runs the suite on it."""

import os

# Before any of the modules imports torch: two processes share the cores (see `effd0.timing`).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
