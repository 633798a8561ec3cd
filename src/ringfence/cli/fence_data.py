"""Plans as plain data, and as lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringfence import units
from ringfence.cli.output import line, note
from ringfence.control.data import result_data
from ringfence.core.knob import Verdict
from ringfence.engine import order

if TYPE_CHECKING:
    from ringfence.core.knob import Row, Value
    from ringfence.engine.changes import Result, Step
    from ringfence.engine.fences import Plan, TenantPlan
    from ringfence.engine.transaction import Ended, Report


def shown(row: Row, value: Value | None) -> str:
    """A value for people."""
    if value is None:
        return row.lifted if row.lifts else "unknown"
    return units.format_value(row.unit, value)


def plan_data(plan: Plan) -> dict[str, Any]:
    """The whole plan."""
    return {
        "in_step": plan.empty,
        "complaints": [{"what": error.message, "hint": error.hint} for error in plan.complaints],
        "tenants": [_tenant_data(tenant) for tenant in plan.tenants],
        "not_running": [{"fence": r.selector.text, "at": str(r.place)} for r in plan.missing],
    }


def _tenant_data(tenant: TenantPlan) -> dict[str, Any]:
    freeing = order.waves(tenant.steps).freeing
    return {
        "tenant": tenant.name,
        "rules": list(tenant.seen.fence.rules),
        "keys_in_step": tenant.in_step,
        "problems": [
            {
                "keys": list(problem.keys),
                "why": problem.error.message,
                "hint": problem.error.hint,
                "needs_restart": problem.error.exit_code == 3,
            }
            for problem in tenant.problems
        ],
        "steps": [_step_data(step, tenant, free=step in freeing) for step in tenant.steps],
    }


def _step_data(step: Step, tenant: TenantPlan, *, free: bool) -> dict[str, Any]:
    found = {leaf: step.knob.observation(step.part, key.row) for leaf, key in step.keys.items()}
    settings = {leaf: tenant.settings.get(key.text) for leaf, key in step.keys.items()}
    return {
        "keys": [
            {
                "key": observation.key,
                "from": observation.target,
                "to": step.wants[leaf],
                "unit": observation.row.unit,
                "mechanism": observation.row.mechanism,
                "wanted_by": setting.rule if (setting := settings[leaf]) else None,
                "at": str(setting.place) if setting else None,
            }
            for leaf, observation in found.items()
        ],
        "order": order.FREES if free else order.TAKES,
        "requests": [request.wire() for request in step.requests()],
        "notes": list(step.notes()),
    }


def print_plan(plan: Plan, *, requests: bool) -> None:
    """The plan for people: what is to be done on standard output, all else beside it."""
    import json

    for tenant in plan.tenants:
        if not tenant.steps and not tenant.problems:
            continue
        line(f"{tenant.name}  ({', '.join(tenant.seen.fence.rules)})")
        for problem in tenant.problems:
            line(f"  ! {problem.error.message}")
            if problem.error.hint:
                line(f"    {problem.error.hint}")
        if tenant.problems and tenant.steps:
            line("  nothing of it is changed while that is so; else it would be:")
        waves = order.waves(tenant.steps)
        for step in (*waves.freeing, *waves.taking):
            _print_step(step, tenant, free=bool(waves.taking) and step in waves.freeing)
            for request in step.requests() if requests else ():
                line(f"      {json.dumps(request.wire())}")
    for rule in plan.missing:
        note(f"{rule.place}: {rule.selector.text!r} does not run now")
    for complaint in plan.complaints:
        line(f"! {complaint.message}")
    line(summary(plan))


def _print_step(step: Step, tenant: TenantPlan, *, free: bool) -> None:
    for leaf, key in step.keys.items():
        have = step.knob.observation(step.part, key.row)
        want = step.wants[leaf]
        if key.row.modifies:
            line(f"  {have.key}  {shown(key.row, want)}")
        elif have.target != want or have.actual != want:
            setting = tenant.settings.get(key.text)
            where = f"  [{setting.place}]" if setting else ""
            first = "  first" if free else ""
            change = f"{shown(key.row, have.actual)} -> {shown(key.row, want)}"
            line(f"  {have.key}  {change}  by {have.row.mechanism}{first}{where}")
    for text in step.notes():
        line(f"      {text}")


def summary(plan: Plan) -> str:
    """One line that says how much there is."""
    changing = [tenant for tenant in plan.tenants if tenant.steps and not tenant.problems]
    troubled = [tenant for tenant in plan.tenants if tenant.problems]
    if plan.empty:
        return f"in step: {_count(len(plan.tenants), 'tenant')}, nothing to change"
    keys = sum(len(step.keys) for tenant in changing for step in tenant.steps)
    text = f"{_count(keys, 'key')} of {_count(len(changing), 'tenant')} to change"
    return f"{text}; {_count(len(troubled), 'tenant')} cannot be as fenced" if troubled else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def report_data(report: Report) -> dict[str, Any]:
    """What became of a plan."""
    return {
        "transaction": report.number,
        "confirm_by_s": report.confirm_by_s,
        "in_step": report.plan.empty,
        "tenants": [_ended_data(ended) for ended in report.tenants],
        "not_running": [{"fence": r.selector.text, "at": str(r.place)} for r in report.plan.missing],
    }


def _ended_data(ended: Ended) -> dict[str, Any]:
    return {
        "tenant": ended.plan.name,
        "state": ended.state,
        "said": ended.said,
        "problems": [
            {"keys": list(p.keys), "why": p.error.message, "hint": p.error.hint} for p in ended.plan.problems
        ],
        "results": [result_data(result) for result in ended.results],
    }


def print_report(report: Report) -> None:
    """What became of a plan, for people."""
    for ended in report.tenants:
        for result in ended.results:
            line(f"{ended.plan.name}  {result.key}  {_became(result)}")
        for text in dict.fromkeys(text for result in ended.results for text in result.notes):
            note(f"{ended.plan.name}  {text}")
        for problem in ended.plan.problems:
            line(f"{ended.plan.name}  ! {problem.error.message}")
            if problem.error.hint:
                line(f"    {problem.error.hint}")
        if ended.results and ended.state != "new":
            said = f": {ended.said}" if ended.said else ""
            line(f"{ended.plan.name}  {_STATES.get(ended.state, ended.state)}{said}")
    for rule in report.plan.missing:
        note(f"{rule.place}: {rule.selector.text!r} does not run now")


_STATES = {
    "old": "put back: it is as it was before",
    "mixed": "neither as it was nor as fenced",
    "gone": "cannot be read any more",
}


def _became(result: Result) -> str:
    now = shown(result.row, result.actual) if result.known else "not known"
    text = f"{shown(result.row, result.before)} -> {now}  {result.verdict}"
    if result.verdict is Verdict.APPLIED:
        return f"{text}  ({units.format_seconds(result.took_ms / 1e3)})"
    by = f" by {result.by}" if result.by else ""
    return f"{text}{by}: {result.detail}"


def exit_code(report: Report) -> int:
    """What a command line ends with: 0 only when every tenant is as fenced."""
    codes = [result.exit_code for ended in report.tenants for result in ended.results if result.exit_code]
    codes += [problem.error.exit_code for tenant in report.plan.tenants for problem in tenant.problems]
    changed = any(ended.state in ("new", "mixed") for ended in report.tenants)
    if not codes:
        return 0
    return 6 if changed and codes[0] == 2 else codes[0]
