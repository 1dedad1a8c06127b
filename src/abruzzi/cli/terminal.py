"""The terminal renderer of a run's events: thinking dimmed, tools as cards, the answer on stdout.

Thinking and cards go to stderr and only when that is a terminal; the answer goes to stdout,
streamed when that is a terminal and whole at the end when it is not. Model text is never read as
markup, and control characters in it never reach the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TextIO

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from abruzzi.agent.loop import AgentEvent, Finish, StepStart, ToolResult
from abruzzi.tools import ToolError
from abruzzi.types import ContentDelta, MessageEnd, ReasoningDelta

CARD_LINES = 8
# Everything a terminal would act on, except tab and newline.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

STOPPED = {
    "max_steps": "stopped: the limit of steps was reached; hint: --max-steps",
    "max_seconds": "stopped: the time limit was reached",
    "length": "stopped: the token limit or the end of the context was reached; hint: --max-tokens",
    "aborted": "stopped",
    "no_answer": "the model ended without an answer",
    "error": "stopped by an error",
}


def safe(text: str) -> str:
    """Text without control characters that a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class Terminal:
    """A reader of agent events. quiet: nothing on stderr."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, quiet: bool = False) -> None:
        self.out = out or sys.stdout
        shown = err if err is not None else sys.stderr
        silent = quiet or not shown.isatty()
        self.console = Console(file=shown, highlight=False, markup=False, soft_wrap=True, quiet=silent)
        self.live = self.out.isatty()
        self._mid_line = False
        self._thought_tokens = 0

    def show(self, event: AgentEvent) -> None:
        """Print what this event adds."""
        if isinstance(event, StepStart):
            self._end_line()
        elif isinstance(event, ReasoningDelta):
            self.console.print(Text(safe(event.text), style="dim italic"), end="")
            self._mid_line = not event.text.endswith("\n")
        elif isinstance(event, ContentDelta) and self.live:
            self._end_line()
            self.out.write(safe(event.text))
            self.out.flush()
        elif isinstance(event, MessageEnd):
            self._end_line()
            if self.live and event.message.content:
                self.out.write("\n")
        elif isinstance(event, ToolResult):
            self._card(event)
        elif isinstance(event, Finish):
            self._finish(event)

    def question(self, text: str) -> None:
        """What is asked, where the person did not type it."""
        self.console.print(Text(safe(text), style="bold"))

    def _card(self, event: ToolResult) -> None:
        failed = isinstance(event.result, ToolError)
        lines = safe(event.result.message).splitlines() or [""]
        more = len(lines) - CARD_LINES
        shown = "\n".join(lines[:CARD_LINES]) + (f"\n... {more} more lines" if more > 0 else "")
        body = Text.assemble((safe(_arguments(event.call.arguments)) + "\n", "cyan"), (shown, "red" if failed else ""))
        title = Text(f" {safe(event.call.name)} {event.seconds * 1000:.0f} ms ")
        self.console.print(Panel(body, title=title, title_align="left", border_style="red" if failed else "green"))

    def _finish(self, event: Finish) -> None:
        if not self.live and event.answer:
            self.out.write(event.answer.rstrip("\n") + "\n")
            self.out.flush()
        if event.stop_reason != "answer":
            self.console.print(STOPPED[event.stop_reason], style="yellow")

    def summary(self, text: str) -> None:
        """One closing line of numbers."""
        self.console.print(text, style="dim")

    def _end_line(self) -> None:
        if self._mid_line:
            self.console.print()
            self._mid_line = False


def _arguments(text: str) -> str:
    """Arguments as a person reads them: `key: value` where they parse, the raw text where not."""
    try:
        given = json.loads(text)
    except ValueError:
        return text
    if not isinstance(given, dict):
        return text
    return ", ".join(f"{k}: {v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in given.items())
