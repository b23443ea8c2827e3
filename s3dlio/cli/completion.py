"""Scripts by which shells complete commands and options, made of what the parser knows; files they complete as ever."""

from __future__ import annotations

from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Mapping

from .arguments import parser

_BASH = """\
_s3dlio() {{
  local words
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _s3dlio s3dlio"""


def script(shell: str) -> str:
    """The script for `shell`, one of :data:`.arguments.SHELLS`."""
    known = _commands()
    if shell == "fish":
        return _fish(known)
    cases = "\n".join(f'    {name}) words="{" ".join(_options(made))}" ;;' for name, (_, made) in known.items())
    bash = _BASH.format(cases=cases, commands=" ".join(known))
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def _fish(known: Mapping[str, tuple[str, ArgumentParser]]) -> str:
    lines = []
    for name, (text, made) in known.items():
        lines.append(f"complete -c s3dlio -n __fish_use_subcommand -f -a {name} -d '{text}'")
        when = f"complete -c s3dlio -n '__fish_seen_subcommand_from {name}' -l"
        lines += [f"{when} {option.removeprefix('--')}" for option in _options(made)]
    return "\n".join(lines)


def _commands() -> dict[str, tuple[str, ArgumentParser]]:
    """The commands, what they do, and their parsers."""
    action = next(each for each in parser()._actions if isinstance(each, _SubParsersAction))
    texts = {each.dest: each.help or "" for each in action._choices_actions}
    return {name: (texts[name], made) for name, made in action.choices.items()}


def _options(made: ArgumentParser) -> list[str]:
    return [name for action in made._actions for name in action.option_strings if name.startswith("--")]
