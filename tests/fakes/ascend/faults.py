"""Failures on demand: which call, with which code, and what the runtime says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Codes that a function plausibly fails with (section 7, rule 5).
PLAUSIBLE: dict[str, tuple[int, ...]] = {
    "init": (500000, 507008),
    "finalize": (500000,),
    "rt.set_device": (507033,),
    "rt.reset_device": (507000,),
    "rt.get_device_count": (507899,),
    "rt.create_context": (207005,),
    "rt.create_stream": (207008,),
    "rt.create_event": (207005,),
    "rt.malloc": (207001, 207018),
    "rt.malloc_host": (207001,),
    "rt.free": (207002,),
    "rt.free_host": (207002,),
    "rt.memcpy": (107000, 507013),
    "rt.memcpy_async": (107000, 507013),
    "rt.synchronize_stream": (507046,),
    "rt.synchronize_event": (507047,),
    "rt.synchronize_device": (507010,),
    "mdl.load_from_file": (145002, 500002),
    "mdl.execute": (507011, 507015, 507018),
    "mdl.execute_async": (507011, 507015),
}
#: What the runtime tells, with the label that people search for.
TEXTS: dict[int, str] = {
    100000: "EH0001: a parameter is invalid",
    100002: "EE1001: the interface was initialised before",
    100003: "EH0002: the configuration file cannot be read",
    100012: "E13005: the model file cannot be deserialised",
    100037: "EE1001: the interface was finalised before",
    100039: "EH9999: the libraries in use are stubs for compiling",
    107000: "EE1001: The argument is invalid. Reason: a runtime parameter is out of range",
    107001: "EE1001: The argument is invalid. Reason: the device id is out of range",
    107002: "EE1001: The argument is invalid. Reason: the context is a null pointer",
    107003: "EE1001: The argument is invalid. Reason: the stream is not of the current context",
    107004: "EE1001: The argument is invalid. Reason: the model is not of the current context",
    107006: "EE1001: The argument is invalid. Reason: the event has no time stamp yet",
    107008: "EE1001: The argument is invalid. Reason: the address is not aligned to 64 bytes",
    107017: "EE1001: The argument is invalid. Reason: the handle is invalid",
    107037: "EE1001: the model is running",
    145000: "E13025: Input tensor is invalid",
    145002: "E13000: the model path does not exist or cannot be read",
    145003: "E19999: no model has this id",
    145013: "E19999: the batch is none of the model's gears",
    207000: "EE1006: the feature is not supported",
    207001: "EL0004: Failed to allocate memory. Possible Cause: Available memory is insufficient.",
    207018: "EL0004: Failed to allocate memory. Possible Cause: Available memory is insufficient.",
    245000: "EL0004: Failed to allocate memory. Possible Cause: Available memory is insufficient.",
    507010: "EL0003: the heartbeat of the device is lost",
    507011: "EZ9999: Inner Error! the model execution failed",
    507013: "EL0003: a system DMA copy failed",
    507015: "EZ9999: Inner Error! an exception occurred in an AI Core",
    507018: "E39999: Inner Error! an exception occurred in an AI CPU",
    507033: "EL0003: open device failed",
    507046: "EE1002: synchronising the stream timed out",
    507047: "EE1002: synchronising the event timed out",
}


def plausible(name: str, turn: int = 0) -> int:
    """A code with which function *name* may fail; *turn* picks among several."""
    fallback = (500002,) if name.startswith("mdl.") else (507000,)
    codes = PLAUSIBLE.get(name, fallback)
    return codes[turn % len(codes)]


def text_of(code: int, detail: str = "") -> str:
    """What `get_recent_err_msg` gives for *code*."""
    known = TEXTS.get(code, "E19999: Inner Error!")
    return f"{known}: {detail}" if detail else known


@dataclass
class Faults:
    """Which of the calls that can fail shall fail; they are counted from 1."""

    count: int = 0
    at: dict[int, int | None] = field(default_factory=dict)
    since: int | None = None
    next: dict[str, list[int | None]] = field(default_factory=dict)
    #: The failures so far: the function's name and the code.
    hits: list[tuple[str, int]] = field(default_factory=list)

    def due(self, name: str) -> int | None:
        """Count a call of *name*; return the code with which it shall fail, or None."""
        self.count += 1
        if self.since is not None and self.count >= self.since:
            code: int | None = None
        elif self.count in self.at:
            code = self.at[self.count]
        elif self.next.get(name):
            code = self.next[name].pop(0)
        else:
            return None
        code = code or plausible(name, self.count)
        self.hits.append((name, code))
        return code
