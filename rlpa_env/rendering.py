"""What a person sees of an episode: the dialogue, guess against truth point by point, the two rewards."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console, Group
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
