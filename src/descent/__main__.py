"""The command line: ``python -m descent ledger``, ``check ID``, ``report ID``, ``sweep``, ``plot``."""

import argparse
import json
import sys

from . import __version__, claims
from ._sweep._cli import add_commands
from .theorems._cli import add_command


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, do what they say, return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except Exception as failure:
        if not hasattr(failure, "remedy") and not isinstance(failure, OSError):
            raise
        print(f"descent: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"descent: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="descent", description="Theorems that run.")
    parser.add_argument("--version", action="version", version=f"descent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ledger = commands.add_parser("ledger", help="the table of all claims, run anew where needed")
    ledger.add_argument("--json", action="store_true", help="one JSON object a claim, one a line")
    ledger.add_argument("--brief", action="store_true", help="what fails and what was run anew")
    ledger.add_argument("--list", action="store_true", help="id, verdict and title, running none")
    ledger.set_defaults(command=_ledger)
    check = commands.add_parser("check", help="run one claim; exit 1 if its evidence is against it")
    check.add_argument("id", help="for instance song2024-theorem-1")
    check.set_defaults(command=_check)
    add_command(commands)
    add_commands(commands)
    return parser


def _ledger(options: argparse.Namespace) -> int:
    if options.list:
        for claim in claims.registry.values():
            print(f"{claim.id:40}  {claim.verdict:18}  {claim.title}")
        return 0
    ledger = claims.run()
    wrong = [entry for entry in ledger if not entry.evidence.supports]
    if options.json:
        print("\n".join(json.dumps(entry.record()) for entry in ledger))
    elif options.brief:
        print(f"ledger: {len(ledger)} claims, {len(wrong)} not supported. {_anew(ledger)}")
        for entry in wrong:
            print(f"ledger: {entry.claim.id}: {'; '.join(entry.evidence.failed)}")
    else:
        print(ledger)
        print(_anew(ledger), file=sys.stderr)
    return 1 if wrong else 0


def _anew(ledger: claims.Ledger) -> str:
    if not ledger.anew:
        return "None was run anew."
    if len(ledger.anew) == len(ledger):
        return "All were run anew."
    return f"{len(ledger.anew)} were run anew: {', '.join(ledger.anew)}."


def _check(options: argparse.Namespace) -> int:
    claim = claims.get(options.id)
    print(f"{claim.id}: {claim.verdict}\n{claim.statement}\n")
    evidence = claim.run()
    for word, found in (("given", evidence.hypotheses), ("then", evidence.conclusions)):
        for name, true in found.items():
            print(f"  {'ok ' if true else 'NO '} {word:5} {name}{_sharpness(evidence, name)}")
    for name, value in evidence.numbers.items():
        print(f"      {name} = {value:.6g}")
    for inequality in claim.certified():
        print(f"      certified  {inequality}")
    print(
        "\nThe evidence supports the verdict."
        if evidence.supports
        else "\nThe evidence is AGAINST the verdict."
    )
    return 0 if evidence.supports else 1


def _sharpness(evidence: claims.Evidence, name: str) -> str:
    if name not in evidence.sharpness:
        return ""
    median, best = evidence.sharpness[name]
    factor = evidence.turns[name]
    turns = f"turns at {factor:g} times" if factor else "does not turn at ten times"
    return f"  (measured over bound {median:.2g}, at best {best:.3g}; {turns})"


if __name__ == "__main__":
    sys.exit(main())
