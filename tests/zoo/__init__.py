"""The zoo of faults: ``python -m tests.zoo`` plants each and runs the suite on it."""

from effd0.threads import let_threads_sleep

let_threads_sleep()  # before any of the modules imports torch
