"""What a person sees of an episode, the dialogue, guess against truth, the two rewards; and of an evaluation, its table."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlpa_env.types import CRITERIA

if TYPE_CHECKING:
    from rlpa_env.env import RLPAEnv

_WIDTH = 100


def render_episode(env: RLPAEnv, to_terminal: bool) -> str | None:
    """Draw the present state. Returns the text with ANSI codes, or prints it and returns None."""
    view = Group(_dialogue(env), summary(env))
    if to_terminal:
        Console().print(view)
        return None
    buffer = io.StringIO()
    Console(file=buffer, force_terminal=True, width=_WIDTH, color_system="standard", legacy_windows=False).print(view)
    return buffer.getvalue()


def summary(env: RLPAEnv) -> Group:
    """Truth beside guess, and the rewards so far."""
    return Group(_points(env), _rewards(env))


def _dialogue(env: RLPAEnv) -> Panel:
    lines = Text()
    for message in env.dialogue:
        name, style = ("User", "bold cyan") if message.role == "user" else ("Assistant", "bold magenta")
        lines.append(f"{name}: ", style=style)
        lines.append(f"{message.content}\n")
    return Panel(lines, title=f"turn {env.turn}", title_align="left")


def _points(env: RLPAEnv) -> Table:
    table = Table(title="truth and guess", title_justify="left", show_edge=False)
    for column in ("slot", "truth", "told", "guessed"):
        table.add_column(column)
    guess = env.last_action.profile
    scored, truth, known = env.scored  # not matched anew: that may cost a model's call, and of a later truth
    pairs = dict(scored)
    hits = {t: guess[g] for g, t in pairs.items()}
    told = {*known, *env.revealed}
    for index, point in enumerate(truth or env.profile.points):
        hit = hits.get(index)
        table.add_row(
            Text(point.slot or "(unnamed)"),
            Text(point.value, style="green" if hit else "dim"),
            "yes" if point in told else "",
            Text(hit.value, style="green") if hit else "",
        )
    for index, point in enumerate(guess):
        if index not in pairs:
            table.add_row(Text(point.slot or "(unnamed)"), "", "", Text(point.value, style="red"))
    return table


def _rewards(env: RLPAEnv) -> Text:
    profile, response = env.last_rewards
    line = Text(f"profile reward {profile:.2f}   response reward {response:.0f}   ")
    for criterion in CRITERIA:
        ok = getattr(env.last_verdict, criterion)
        line.append(f"{criterion} {'✓' if ok else '✗'}  ", style="green" if ok else "red")
    if env.last_action.error:
        line.append(f"malformed: {env.last_action.error}", style="bold red")
    return line


_COLUMNS = (
    ("return", "return", 2),
    ("normalised", "normalised", 2),
    ("normalised_profile", "… profile", 2),
    ("normalised_response", "… response", 2),
    ("profile_f1", "profile F1", 3),
    ("profile_grounded_f1", "grounded F1", 3),
    ("avg", "AL AVG", 1),
)
_NO_SCALE = (
    "No normalised scores: prior and oracle were not both played. --references all (references=\"all\") plays them; "
    "where user, judge or matcher is a model, the oracle asks it hundreds of times a turn."
)


def results_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """The rows as a table, every score with its 95 % interval, best return first; – for one that there is not.

    Where turns were off schema each score stands there twice: with them missing, and below it with them as 0.
    """
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    table.add_column("agent")
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    for row in sorted(rows, key=lambda row: -row.get("return", -math.inf)):
        cells = [f"{row[k]:.{d}f} [dim]{row[f'{k}_lo']:.{d}f}…{row[f'{k}_hi']:.{d}f}[/]" if k in row else "–" for k, _, d in _COLUMNS]
        if zeroed := row.get("off_schema_as_0"):
            cells = [f"{cell}\n[dim]{zeroed[k]:.{d}f} as 0[/]" if k in zeroed else cell for cell, (k, _, d) in zip(cells, _COLUMNS, strict=True)]
        equal = "".join(f"\n[dim]tied with {escape(other)}[/]" for other in row.get("tied_with", ()))
        if row.get("off_schema") and row.get("ranked", True):
            equal += f"\n[dim]{row['off_schema']} turns off schema, left out[/]"
        if not row.get("ranked", True):
            equal = f"\n[red]not ranked: {row['off_schema']} turns off schema[/]"
        if row["malformed"] > 0.5:
            equal += f"\n[red]{row['malformed']:.0%} of answers malformed, which earn 0[/]"
        if row.get("context_stops"):
            equal += f"\n[red]{row['context_stops']} episodes outgrew the context[/]"
        if row.get("failures", 0) > row.get("off_schema", 0):
            equal += f"\n[red]{row['failures'] - row['off_schema']} episodes failed, not counted[/]"
        table.add_row(f"{escape(row['agent'])}{equal}", *cells)
    if not all("normalised" in row for row in rows):
        table.caption = _NO_SCALE
    return table
