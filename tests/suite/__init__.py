"""The checks of an artefact, stage by stage; an installed effd0 has them as `effd0.suite`."""
