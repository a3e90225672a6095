"""``completion``: a script for bash or zsh that completes the words of this command when Tab is pressed.

    ttlightning completion bash > ~/.local/share/bash-completion/completions/ttlightning
    ttlightning completion zsh > ~/.ttlightning.zsh                # and in ~/.zshrc: source ~/.ttlightning.zsh

Options and listed values are written into the script, so Tab starts no Python. The shell finds runs and files.
"""

import inspect
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, Literal

from ttlightning import formats
from ttlightning.commands import WITH_TRAINER, WITHOUT_TRAINER
from ttlightning.commands.configs import available_configs
from ttlightning.commands.parser import VerbParser, parser_of
from ttlightning.errors import MissingExtra
from ttlightning.runs.trust import OPTION
from ttlightning.system.extras import needed_by
from ttlightning.system.parsing import option_values, parsers_of

Options = Mapping[str, Sequence[str]]
"""Option: the values that its type lists."""

OF_THE_DATA: Final = {"self", "sites", "mode_size", "classes", "patch_dim"}
"""Parameters of formats and feature maps that data and network determine; ``mode_size`` is one of feature maps too."""

SCRIPT: Final = r"""# Completion of ttlightning for @SHELL@
@START@_ttlightning() {
    local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}
    local start= options= values= file
    if [[ $word == "=" ]]; then                    # bash takes --option=value apart at the sign
        word=
    elif [[ $option == "=" ]]; then
        option=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $word == --*=* ]]; then                # zsh does not
        option=${word%%=*} start=${word%%=*}= word=${word#*=}
    fi
    COMPREPLY=()
    case $verb in
@OPTIONS@
    esac
    case $option in
@VALUES@
        --ckpt_path) values="last" ;;
        completion) values="bash zsh" ;;
    esac
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "--help @VERBS@" -- "$word"))
        return
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        return
    elif [[ -n $values ]]; then
        for file in $(compgen -W "$values" -- "$word"); do      # zsh gives those that do not begin with the word too
            [[ $file == "$word"* ]] && COMPREPLY+=("$file")
        done
    fi
    if [[ -z $values || $option == --config || $option == --ckpt_path ]]; then
        local IFS=$'\n'
        if [[ $option != --config ]]; then
            for file in $(compgen -G "${TTLIGHTNING_RUNS:-runs}/*/*/config.yaml"); do
                [[ $file == "$word"* ]] && COMPREPLY+=("${file%/config.yaml}")
            done
        fi
        (( ${#COMPREPLY[@]} )) || COMPREPLY=($(compgen -G "${word/#\~/$HOME}*"))
        compopt -o filenames 2> /dev/null
    fi
    COMPREPLY=("${COMPREPLY[@]/#/$start}")
}
complete -F _ttlightning ttlightning
"""
ZSH: Final = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def main(args: Sequence[str]) -> int:
    parser = VerbParser("completion", "Print a script with which a shell completes the words of this command.")
    parser.add_argument("shell", type=Literal["bash", "zsh"], help="the shell that reads the script")
    shell = parser.parse_args(args).shell
    print(script(shell, {**options_with_trainer(), **options_without_trainer()}), end="")
    return 0


def options_without_trainer() -> dict[str, Options]:
    """The options of each verb that needs no trainer."""
    return {
        verb: option_values(parser_of(import_module(f"ttlightning.commands.{verb}").main)) for verb in WITHOUT_TRAINER
    }


def options_with_trainer() -> dict[str, Options]:
    """The options of the verbs with a trainer, with those of this package's formats and feature map.

    Without the packages of the extra ``train``, none, and a line on stderr.
    """
    try:
        with needed_by("the completion of fit, validate, test and predict"):
            from ttlightning.commands.studies import command_line
            from ttlightning.networks import baselines
            from ttlightning.networks.features import ACTIVATIONS, PatchFeatureMap
    except MissingExtra as reason:
        print(f"ttlightning: left out: {reason}", file=sys.stderr)
        return {}
    kinds = {name: getattr(formats, name) for name in formats.NAMES}
    kinds |= {name: getattr(baselines, name) for name in baselines.__all__}
    more: dict[str, list[str]] = {OPTION: [], "--model.format": sorted(kinds)}
    for kind in kinds.values():
        more |= {f"--model.format.{name}": [] for name in inspect.signature(kind).parameters if name not in OF_THE_DATA}
    names = set(inspect.signature(PatchFeatureMap).parameters) - OF_THE_DATA | {"mode_size"}
    more |= {f"--model.features.{name}": [] for name in sorted(names)}
    more |= {"--model.features.activation": list(ACTIVATIONS), "--model.features.constant": ["true", "false"]}
    known = parsers_of(command_line().parser)
    return {verb: option_values(known[verb]) | more for verb in WITH_TRAINER}


def script(shell: str, options: Mapping[str, Options]) -> str:
    """The script for a shell, from the options of every verb."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for listed in options.values():
        for option, words in listed.items():
            values[option] |= dict.fromkeys(words)
    values["--config"] = dict.fromkeys(available_configs())
    parts = {
        "SHELL": shell,
        "START": ZSH if shell == "zsh" else "",
        "VERBS": " ".join(WITH_TRAINER | WITHOUT_TRAINER),
        "OPTIONS": _cases("options", {verb: sorted(listed) for verb, listed in options.items()}),
        "VALUES": _cases("values", {option: list(words) for option, words in values.items() if words}),
    }
    text = SCRIPT
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _cases(variable: str, words: Mapping[str, Sequence[str]]) -> str:
    """The cases of a shell's ``case``: each pattern sets the variable to its words; patterns with the same are one."""
    patterns = defaultdict(list)
    for pattern, listed in words.items():
        patterns[" ".join(listed)].append(pattern)
    return "\n".join(f'        {" | ".join(alike)}) {variable}="{text}" ;;' for text, alike in patterns.items())
