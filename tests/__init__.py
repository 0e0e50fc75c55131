"""The suite that checks artefacts, and the tests of effd0 itself."""
