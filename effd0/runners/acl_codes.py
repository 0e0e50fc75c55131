"""
What pyACL's return codes mean, and what to do about them.

Names are those of CANN's headers (acl_base_rt.h, rt_error_codes.h, ge_error_codes.h).  The first
digit of any code tells who has to act, so a code that is not listed has advice too.
"""

from __future__ import annotations

REPEAT_INITIALIZE = 100002

_SOURCE = "source CANN's set_env.sh and look at 'effd0 doctor'"
_OWN = "this is a mistake of the caller: report it with this message"
_RECOMPILE = "compile the model again on this version of CANN with 'effd0 compile'"
_SMALLER = "use a smaller --batch-size, or free the device (npu-smi info shows who holds it)"
_DEVICE = "see that --device exists and is healthy (npu-smi info), and that no one has taken it"
_HEALTH = "look at the device's health (npu-smi info) and at ~/ascend/log, then reset the device"
_THREAD = "every thread has to set a context first: report it with this message"

#: Code -> (meaning, what to do).
CODES: dict[int, tuple[str, str]] = {
    100000: ("a parameter is not valid", _OWN),
    100001: ("ACL is not initialised", _SOURCE),
    100002: ("ACL is initialised already", "keep one runner or acl_session open instead of many"),
    100003: ("the file is not valid", _RECOMPILE),
    100011: ("no such model id", _OWN),
    100012: ("the model cannot be deserialised", _RECOMPILE),
    100013: ("the model cannot be parsed", _RECOMPILE),
    100014: ("the model file cannot be read", "check the file's path and permissions"),
    100015: ("the model's size is wrong", _RECOMPILE),
    100017: ("the inputs are not those of the model", _OWN),
    100018: ("the outputs are not those of the model", _OWN),
    100019: ("the model is not dynamic", "compile it with --dynamic-batch-size"),
    100026: ("the data type is not supported", _RECOMPILE),
    100037: ("ACL is finalised already", _OWN),
    100039: ("the stub library answered, not the driver", _SOURCE),
    107000: ("a parameter is not valid for the runtime", _OWN),
    107001: ("no such device", _DEVICE),
    107002: ("this thread has no context", _THREAD),
    107003: ("the stream belongs to another context", _THREAD),
    107004: ("the model was loaded in another context", _THREAD),
    107006: ("the event has no time yet", _OWN),
    107008: ("an address is not aligned to 64 bytes", _OWN),
    107019: ("waiting took too long", _HEALTH),
    107020: ("a task took too long", _HEALTH),
    107037: ("the model is still running", _OWN),
    145000: ("the model does not take what it was given", "see that the .om is the one you mean"),
    145001: ("the model executor is not initialised", _SOURCE),
    145002: ("the model file is missing or is no model", _RECOMPILE),
    145003: ("no such model id", _OWN),
    145006: ("the model's data has the wrong size", _RECOMPILE),
    145013: ("the batch size is none of the model's gears", "compile it with that gear"),
    148051: ("resources are still in use", _OWN),
    200000: ("memory ran out", _SMALLER),
    200001: ("this version of CANN does not know the function", "use a later version of CANN"),
    207000: ("this version of CANN does not know the feature", "use a later version of CANN"),
    207001: ("memory ran out", _SMALLER),
    207004: ("there is no device", _DEVICE),
    207005: ("resources ran out", _SMALLER),
    207008: ("streams ran out", "close other users of the device"),
    207018: ("the device's memory ran out", _SMALLER),
    245000: ("memory ran out while the model was loaded", _SMALLER),
    500000: ("an internal error", _HEALTH),
    500001: ("an internal failure", _HEALTH),
    500002: ("the graph engine failed", _RECOMPILE),
    500003: ("the runtime failed", _HEALTH),
    507008: ("the model is for another chip", "compile it with this chip's --soc-version"),
    507010: ("the device's heartbeat is lost", _HEALTH),
    507011: ("the model failed while it ran", f"{_HEALTH}; too large a batch shows so as well"),
    507013: ("a copy between host and device failed", _HEALTH),
    507014: ("an AI Core took too long", _HEALTH),
    507015: ("an AI Core failed", _HEALTH),
    507017: ("an AI CPU took too long", _HEALTH),
    507018: ("an AI CPU failed", _HEALTH),
    507033: ("the device could not be opened", _DEVICE),
    507046: ("waiting for a stream took too long", _HEALTH),
    507047: ("waiting for an event took too long", _HEALTH),
    507053: ("the device's memory has an error", _HEALTH),
    507899: ("the driver failed", _HEALTH),
    507901: ("the connection to the device broke", _HEALTH),
}
#: First digit -> the same for codes that are not listed.
KINDS = {
    1: ("a mistake of the caller", _OWN),
    2: ("resources are missing", _SMALLER),
    3: ("a service failed", _HEALTH),
    5: ("an internal error", _HEALTH),
}


def explain(code: int) -> tuple[str, str]:
    """Return what *code* means and what to do about it."""
    other = KINDS.get(int(str(abs(code))[0]), ("a failure", _HEALTH))
    return CODES.get(code, other)
