"""What tests and benchmarks share: the fixtures of what is under test."""

pytest_plugins = ("tests.suite.fixtures",)
