"""What a run on many workers says of itself: shares, stragglers, and faults as sentences."""

from __future__ import annotations

import json

import pytest

from effd0.scale.ledger import LedgerState, Taken, WorkerId
from effd0.scale.summary import FEW, STRAGGLES, PoolSummary, Shares, faults
from effd0.scale.worker import UnitReport

A, B, C = (WorkerId("host", "node", pid, device, 0.0) for pid, device in ((7, 2), (8, 0), (9, 1)))
NOTHING = LedgerState({}, (), (), {})


def report(worker: WorkerId, seconds: float, images: int = 10) -> UnitReport:
    """Return what *worker* says of some unit."""
    return UnitReport(0, images, worker, seconds, b"", {})


def shares(**seconds: tuple[float, ...]) -> dict[str, bool]:
    """Return who straggles, of workers with units of so many *seconds*."""
    all_shares, workers = Shares(), {"a": A, "b": B, "c": C}
    for name, each in seconds.items():
        for one in each:
            all_shares.add(report(workers[name], one))
    made = {
        share.worker: share.straggler for share in all_shares.all(dict.fromkeys([A, B, C], 1.0))
    }
    return {name: made[str(worker)] for name, worker in workers.items()}


def test_a_share_sums_up_what_a_worker_did() -> None:
    """Images, units and busy seconds add up, beside what opening took; by device."""
    every = Shares()
    for one in (report(A, 2.0), report(B, 1.0), report(A, 3.0)):
        every.add(one)
    idle, first, second = (WorkerId("aaa", "n", 1, 0, 0.0), B, A)
    made = every.all({A: 0.5, idle: 9.0, B: 0.25})
    assert [share.worker for share in made] == [str(idle), str(first), str(second)]
    assert [share.images for share in made] == [0, 10, 20]
    assert [share.opened_s for share in made] == [9.0, 0.25, 0.5]
    assert made[2].rate == pytest.approx(20 / 5)
    assert made[0].rate == 0


def test_who_is_much_slower_than_the_middle_straggles() -> None:
    """One worker's rate is held against the middle one; a little slower is not slow."""
    even, slow = (1.0,) * FEW, (STRAGGLES * 1.1,) * FEW
    assert shares(a=even, b=even, c=slow) == {"a": False, "b": False, "c": True}
    almost = (STRAGGLES * 0.9,) * FEW
    assert not any(shares(a=even, b=even, c=almost).values())


def test_few_units_make_no_straggler() -> None:
    """One slow unit says nothing, since the first one is always slow."""
    even = (1.0,) * FEW
    assert not any(shares(a=even, b=even, c=(9.0,) * (FEW - 1)).values())


def test_a_run_without_faults_has_none() -> None:
    """Nothing is made up of what Ray says beside the run."""
    assert faults(NOTHING, {}, [], ["Worker PID: 7 Worker exit detail: by rules."]) == ()


def test_each_fault_is_a_sentence_of_its_own() -> None:
    """Devices left out come first, then nodes, workers and what else was noted, each once."""
    state = LedgerState(
        {}, ((0, Taken(A)), (10, Taken(A))), ((20, Taken(B)),), {C.place: f"{C}: it smokes"}
    )
    dead = {"node": "host (ab): heartbeat missed", "other": "far (cd): "}
    told = faults(state, dead, ["twice", "twice"], [])
    assert told == (
        f"device left out: {C}: it smokes",
        "a node was lost: host (ab): heartbeat missed",
        "a node was lost: far (cd)",
        f"worker lost: {A}; its unit was asked for again",
        f"worker lost: {B}; its unit was asked for again",
        "twice",
    )


def test_a_worker_that_died_idle_is_named_too() -> None:
    """A process that was replaced had nothing to be asked for again."""
    state = LedgerState({}, ((0, Taken(A)),), (), {}, (A, B))
    assert faults(state, {}, [], []) == (
        f"worker lost: {A}; its unit was asked for again",
        f"worker lost: {B}; another took its place",
    )


def test_a_worker_of_whose_death_only_ray_knows_is_named() -> None:
    """Where nobody took the place of a worker that died idle, Ray's own word is enough."""
    heard = [f"Worker PID: {pid} Worker exit detail: killed." for pid in (A.pid, C.pid)]
    state = LedgerState({A: 1.0, B: 1.0, C: 1.0}, (), (), {C.place: "it smokes"})
    assert faults(state, {}, [], heard) == (
        "device left out: it smokes",
        f"worker lost: {A}: killed.; another took its place",
    )


def test_what_did_not_come_back_is_told_even_if_nobody_saw_why() -> None:
    """Units that were asked for again are a fault, unless another one tells more."""
    (told,) = faults(NOTHING, {}, [], [], again=3)
    assert told == "3 units of work did not come back and were asked for again"
    assert faults(NOTHING, {}, ["something"], [], again=3) == ("something",)


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("Worker exits with exit code 1. Some common causes include", "exits with exit code 1;"),
        ("Worker unexpectedly exits with a connection error code 2.", "was killed or crashed;"),
    ],
    ids=["told", "connection-lost"],
)
def test_what_ray_says_of_a_death_is_passed_on(detail: str, said: str) -> None:
    """Of Ray's lines, the one of that process tells how it died, without advice."""
    heard = [
        "Worker PID: 70 of another: Worker exit detail: by rules.",
        f"Worker ID: 1 Node ID: 2 Worker PID: {A.pid} Worker exit detail: {detail}",
    ]
    state = LedgerState({}, ((0, Taken(A)),), (), {})
    (told,) = faults(state, {}, [], heard)
    assert told.startswith(f"worker lost: {A}: ")
    assert said in told
    assert told.endswith("its unit was asked for again")


def test_a_summary_is_plain_values() -> None:
    """It goes to JSON and back; rates leave the start-up out."""
    every = Shares()
    every.add(report(A, 2.0))
    summary = PoolSummary(every.all({A: 1.0}), 1, 0, 30.0, 4.0, 10, ("one",))
    plain = summary.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["images_per_second"] == pytest.approx(10 / 4)
    assert plain["workers"][0]["rate"] == pytest.approx(10 / 2)
    assert plain["faults"] == ["one"]


def test_a_run_that_had_nothing_to_do_has_no_rate() -> None:
    """Where all images were there already, no second was worked."""
    assert PoolSummary((), 0, 0, 0.0, 0.0, 0).images_per_second == 0
