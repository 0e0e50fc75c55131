"""
effd0 decides whether an EfficientDet-D0 build may ship.

Two lines meet in a model file on disk::

    run line    spec -> dataset -> preprocess -> runners -> postprocess -> evaluate -> report
    build line  spec -> checkpoint -> export -> graph -> (a model file) -> runners

``effd0.evaluation.pipeline`` drives the run line, ``effd0.export.verify`` the build line; the
command line and the test suite are two control panels over the same functions.
"""

from __future__ import annotations

__version__ = "0.1.0"
