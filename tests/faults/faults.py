"""All faults, in the order of the stages that they are planted in."""

from __future__ import annotations

from effd0.results.check import STAGES

from .checkpoint_faults import CHECKPOINT_FAULTS
from .dataset_faults import DATASET_FAULTS
from .detection_faults import DETECTION_FAULTS
from .gate_faults import GATE_FAULTS
from .input_faults import INPUT_FAULTS
from .model_faults import MODEL_FAULTS
from .own_faults import OWN_FAULTS
from .result_faults import RESULT_FAULTS
from .runtime_faults import RUNTIME_FAULTS

FAULTS = tuple(
    sorted(
        (
            *DATASET_FAULTS, *INPUT_FAULTS, *CHECKPOINT_FAULTS, *MODEL_FAULTS, *RUNTIME_FAULTS,
            *RESULT_FAULTS, *OWN_FAULTS, *DETECTION_FAULTS, *GATE_FAULTS,
        ),
        key=lambda fault: STAGES.index(fault.stage),
    )
)  # fmt: skip
