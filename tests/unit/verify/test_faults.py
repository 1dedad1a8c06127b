"""`abruzzi verify` against a correct toy server, and against the same server with one fault
planted.

The correct one passes every check. For each check there is at least one fault that turns exactly
that check red, over the whole suite: a check that cannot fail, or fails for its neighbour's
reasons, is worth nothing. The default run plants one fault per check; the others are slow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from abruzzi.verify import run as verify
from abruzzi.verify.checks import CHECKS
from abruzzi.verify.report import to_html
from abruzzi.verify.run import Report
from abruzzi.verify.wire import Wire
from tests.fakes.verify_toy_server import Endpoint

WALLE = Path(__file__).resolve().parents[4] / "shared/data/k2/walle_schema_cases"

# check -> faults that turn it, and nothing else, red; the first is tried in the default run.
EXACTLY = {
    "models": ["model_not_listed"],
    "chat": ["wrong_object"],
    "finish_reason": ["end_says_length"],
    "max_tokens": ["one_token_more"],
    "greedy_repeats": ["greedy_varies"],
    "stop": ["stop_leaks", "stop_ignored", "stop_says_length"],
    "seed": ["seed_ignored", "temperature_ignored"],
    "n": ["n_ignored"],
    "logprobs": [
        *("probabilities_exceed_one", "logprobs_ignored", "chosen_logprob_off", "tops_unsorted"),
        "logprobs_of_other_tokens",
    ],
    "usage_ids": ["completion_count_off"],
    "usage_tokenize": ["tokenize_drops_one"],
    "usage_sum": ["total_off", "reasoning_count_off"],
    "stream_shape": [
        *("no_done", "role_in_every_chunk", "one_piece", "text_after_end", "odd_line", "chunk_ids_differ"),
        "stream_type",
    ],
    "stream_order": ["thinking_last"],
    "stream_equals": ["stream_loses_end", "stream_loses_second_call"],
    "stream_tool_calls": ["name_comes_last"],
    "stream_usage": ["usage_twice"],
    "tool_calls": ["calls_have_no_type", "calls_end_in_stop"],
    "tool_arguments": ["forced_call_misses_argument"],
    "tool_ids": ["ids_repeat", "ids_are_names", "ids_count"],
    "tool_choice_none": ["none_calls"],
    "tool_choice_required": ["required_ignored"],
    "tool_choice_named": ["named_ignored", "named_unchecked"],
    "tool_result": ["tool_result_dropped", "null_content_crashes"],
    "reasoning_kept": ["history_loses_thinking", "only_last_thought_kept"],
    "reasoning_alias": ["alias_ignored"],
    "json_object": ["json_object_fenced"],
    "json_schema": ["person_breaks_schema"],
    "schema_cases": ["cases_break_schema"],
    "schema_large": ["large_schema_crashes"],
    "schema_accuracy": ["auto_call_adds_argument", "arguments_not_json"],
    "tool_call_f1": ["never_calls"],
    "reasoning_separated": ["think_tag_leaks", "answer_in_thinking", "fields_differ"],
    "no_control_tokens": ["control_token_leaks"],
    "cancel": ["generates_for_nobody"],
    "error_unknown_model": ["any_model"],
    "error_malformed_json": ["malformed_crashes"],
    "error_wrong_types": ["types_accepted"],
    "error_unknown_fields": ["unknown_ignored"],
    "error_out_of_range": ["range_accepted"],
    "error_bad_schema": ["bad_schema_crashes"],
    "error_context": ["context_cut"],
    "overflow_wording": ["overflow_unclear"],
    "neighbour_isolated": ["neighbour_poisoned"],
    "health_under_load": ["large_body_blocks"],
    "prefix_reused": ["prefix_lost"],
    "deferred_tools": ["deferred_is_loaded"],
    "history_bookkeeping": ["bookkeeping_refused"],
    "alive": ["dies_of_context"],
}
ERRORS = {c.name for c in CHECKS if c.name.startswith("error_")}
# A feature that a server says it lacks: fault -> the checks that are then unsupported.
REFUSALS = {
    "refuses_n": {"n"},
    "refuses_seed": {"seed"},
    "refuses_logprobs": {"logprobs"},
    "refuses_return_token_ids": {"usage_ids"},
    "refuses_stop": {"stop"},
    "refuses_response_format": {"json_object", "json_schema", "schema_cases", "schema_large", "error_bad_schema"},
    "context_unknown": {"error_context", "overflow_wording"},
}

Planted = Callable[..., Endpoint]


@pytest.fixture
def plant() -> Iterator[Planted]:
    running: list[Endpoint] = []

    def start(*faults: str) -> Endpoint:
        running.append(Endpoint(*faults))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.close()


def judge(endpoint: Endpoint, suite: str = "quick", **options: object) -> Report:
    wire = Wire(endpoint.url)
    try:
        return verify.verify(wire, "toy", suite=suite, **options)  # type: ignore[arg-type]
    finally:
        wire.close()


def red(report: Report) -> set[str]:
    return {r.check.name for r in report.results if r.status == "fail"}


def unsupported(report: Report) -> set[str]:
    return {r.check.name for r in report.results if r.status == "unsupported"}


def suite_of(check: str) -> str:
    return next("quick" if "quick" in c.suites else "full" for c in CHECKS if c.name == check)


def test_every_check_has_a_fault() -> None:
    assert list(EXACTLY) and set(EXACTLY) == {c.name for c in CHECKS}


@pytest.mark.parametrize("suite", ["quick", pytest.param("full", marks=pytest.mark.slow)])
def test_a_correct_server_passes_all(plant: Planted, suite: str) -> None:
    full = suite == "full"
    report = judge(plant(), suite, schemas=WALLE if full and WALLE.is_dir() else None)
    assert [(r.check.name, r.status) for r in report.results] == [(c.name, "pass") for c in CHECKS if suite in c.suites]
    assert report.ok and report.schema_accuracy == 1.0 and report.tool_call_f1 == 1.0
    for result in report.results:
        assert 0 < result.passed == result.total
        assert result.examples[0]["problem"] is None and result.examples[0]["exchanges"]
    if full and WALLE.is_dir():
        cases = next(r for r in report.results if r.check.name == "schema_cases")
        # The one schema that the toy refuses asks for a string of 999999999999 characters.
        assert cases.passed == 165 and cases.skipped == {"refused": 1}


@pytest.mark.parametrize("check", EXACTLY)
def test_a_fault_turns_exactly_its_check_red(plant: Planted, check: str) -> None:
    """The check beside all that the fault could touch; the whole suite is in the slow test."""
    fault = EXACTLY[check][0]
    group = next(c.group for c in CHECKS if c.name == check)
    near = [c.name for c in CHECKS if (c.group == group and c.name != "cancel") or c.name == check]
    report = judge(plant(fault), suite_of(check), only=near)
    assert red(report) == {check}
    of_model = next(c for c in CHECKS if c.name == check).judges == "model"
    assert report.ok is of_model and [r.check.name for r in report.of_model] == [check] * of_model
    (failed,) = [r for r in report.results if r.status == "fail"]
    assert failed.passed < failed.total
    assert failed.examples[0]["problem"] and failed.examples[0]["exchanges"][0]["request"]["path"]


@pytest.mark.slow
@pytest.mark.parametrize(("check", "fault"), [(c, f) for c, faults in EXACTLY.items() for f in faults])
def test_over_the_whole_suite(plant: Planted, check: str, fault: str) -> None:
    assert red(judge(plant(fault), suite_of(check))) == {check}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        ("prompt_count_off", {"usage_ids", "usage_tokenize"}),
        ("foreign_ids_refused", {"tool_result", "history_bookkeeping"}),
        ("cut_says_stop", {"finish_reason", "reasoning_separated"}),
        ("errors_without_object", ERRORS),
        ("arguments_are_objects", {"tool_calls", "stream_equals"}),
    ],
)
def test_a_fault_of_several_checks(plant: Planted, fault: str, checks: set[str]) -> None:
    assert red(judge(plant(fault))) == checks


@pytest.mark.parametrize("fault", REFUSALS)
def test_an_honest_refusal_is_unsupported_not_passed(plant: Planted, fault: str) -> None:
    checks = REFUSALS[fault]
    report = judge(plant(fault), "full", only=sorted(checks))
    assert red(report) == set() and unsupported(report) == checks
    assert all(r.reason for r in report.results)


def test_a_required_check_that_is_unsupported_is_not_ok(plant: Planted) -> None:
    report = judge(plant("refuses_tools"), only=["chat", "tool_calls"])
    assert red(report) == set() and unsupported(report) == {"tool_calls"} and not report.ok


def test_a_model_that_does_not_think_is_not_blamed(plant: Planted) -> None:
    report = judge(
        plant("does_not_think", "history_loses_thinking"), only=["chat", "reasoning_separated", "reasoning_kept"]
    )
    assert report.ok and unsupported(report) == {"reasoning_separated", "reasoning_kept"}


def test_logprobs_of_the_chosen_token_alone_are_judged_as_well(plant: Planted) -> None:
    report = judge(plant("refuses_top_logprobs"), only=["logprobs"])
    assert report.ok and report.results[0].notes == ["top_logprobs are refused"]
    assert red(judge(plant("refuses_top_logprobs", "logprobs_of_other_tokens"), only=["logprobs"])) == {"logprobs"}


@pytest.mark.parametrize(
    "faults", [(), ("closes_twice",), ("text_is_forced",), ("forced_logprob_off",), ("forced_contradicts_top",)]
)
@pytest.mark.parametrize("told", [False, True])
def test_a_thought_that_the_server_closed_is_no_fault_and_hides_none(
    plant: Planted, faults: tuple[str, ...], told: bool
) -> None:
    """One forced end of a thought is right; a second one, forced text, or one whose logprob cannot
    be, is not."""
    report = judge(plant("closes_thoughts", *faults, *(["tells_sampled"] if told else [])), only=["logprobs"])
    assert red(report) == ({"logprobs"} if faults else set())


def test_an_unlikely_end_of_a_thought_that_is_called_sampled_is_a_fault(plant: Planted) -> None:
    report = judge(plant("closes_thoughts", "tells_sampled", "forced_called_sampled"), only=["logprobs"])
    assert red(report) == {"logprobs"}


def test_text_only_tokenize_is_compared_with_completions(plant: Planted) -> None:
    assert judge(plant("tokenize_text_only"), only=["usage_tokenize"]).ok
    assert red(judge(plant("tokenize_text_only", "tokenize_drops_one"), only=["usage_tokenize"])) == {"usage_tokenize"}


def test_answers_beside_others(plant: Planted) -> None:
    report = judge(plant("batch_varies"), "full", only=["greedy_repeats"])
    assert red(report) == {"greedy_repeats"}
    assert "beside it" in report.results[0].examples[0]["problem"]


def test_a_kept_report_gives_the_same_page(plant: Planted, tmp_path: Path) -> None:
    report = judge(plant("stop_leaks"), only=["chat", "stop", "seed"])
    kept = verify.from_json(json.loads(json.dumps(report.to_json())))
    assert kept.ok is False and kept.to_json() == report.to_json()
    assert to_html(kept) == to_html(replace(report, seconds=round(report.seconds, 1)))
    for wrong in ({}, [], None, {"checks": [{}]}, {**report.to_json(), "checks": [{"status": "<b>"}]}):
        with pytest.raises(ValueError, match="no report of abruzzi verify"):
            verify.from_json(wrong)
