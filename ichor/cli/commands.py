"""The command line: every command of docs/contract.md, its flags and its exit code (0 done, 1 it could not, 2 wrong use)."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from ichor import __version__, config
from ichor.cli.descriptors import raise_limit
from ichor.cli.folder import DataFolder
from ichor.cli.metrics_folder import count_by_role, shared_metrics
from ichor.cli.supervisor import COMMANDS, Supervisor, run_role
from ichor.errors import ConfigError, IchorError

# In the contract (docs/contract.md), not in this version: each stops with exit 2 and its name.
_NOT_BUILT = ("fit", "import")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in _NOT_BUILT:
        print(f"ichor {arguments[0]}: not built in this version of Ichor ({__version__})", file=sys.stderr)
        return 2
    options = _parser().parse_args(arguments)
    # UTC like the console and `ichor why`, whatever the machine's zone.
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(process)d %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    for name in ("uvicorn", "aiobotocore", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    for quoting in ("highdicom", "pynetdicom", "pydicom", "py.warnings"):
        # Their messages quote header values; what matters of them reaches people as our own reasons.
        logging.getLogger(quoting).setLevel(logging.CRITICAL)
    raise_limit()
    try:
        return int(options.run(options))
    except IchorError as error:
        print(f"ichor {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is wrong. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ichor", description="A DICOM listener for haemorrhagic stroke. RESEARCH.")
    parser.add_argument("--version", action="version", version=f"ichor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--config", type=Path, metavar="FILE", help="settings (ichor.toml)")
    settings.add_argument("--data", metavar="DIR", help="data folder (setting data)")
    settings.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. --set listener.port=104"
    )

    serve = commands.add_parser("serve", parents=[settings], help="all roles on one machine")
    serve.set_defaults(run=_serve)
    for role in COMMANDS:
        single = commands.add_parser(role, parents=[settings], help=f"the role {role} alone")
        single.set_defaults(run=_role)

    demo = commands.add_parser("demo", help="a scanner, Ichor and a PACS on this machine; found against truth")
    demo.add_argument("--once", action="store_true", help="end by itself; exit 0 only if all came back right")
    demo.add_argument("--data", metavar="DIR", help="folder for the demo (default: a fresh temporary one)")
    demo.add_argument("--seed", type=int, default=20_001, help="first seed of the synthetic heads")
    demo.set_defaults(run=_demo)

    push = commands.add_parser("push", help="send every DICOM object below a folder")
    push.add_argument("folder", type=Path, metavar="DIR")
    push.add_argument("--to", required=True, metavar="AET@HOST:PORT")
    push.add_argument("--calling", default="ICHOR-PUSH", metavar="AET", help="our AE title (default ICHOR-PUSH)")
    push.set_defaults(run=_push)

    phantom = commands.add_parser("phantom", help="write a synthetic study with known truth")
    phantom.add_argument("kind", metavar="KIND", help="ct-head")
    phantom.add_argument("--seed", type=_seed, required=True, help="0 or more; the same seed gives the same head")
    phantom.add_argument("--out", type=Path, required=True, metavar="DIR")
    phantom.add_argument("--bleed", default="random", help="none, random (default), or mL in the whole head")
    phantom.add_argument("--slices", type=int, help="axial slices (default 40); few show part of the head")
    phantom.add_argument("--tilt", type=float, default=0.0, metavar="DEG", help="gantry tilt (default 0)")
    phantom.add_argument("--gaps", choices=("even", "uneven"), default="even", help="distances of slices")
    phantom.add_argument(
        "--vendor", default="plain", help="header habits: plain (default), siemens, ge, philips, canon"
    )
    phantom.add_argument(
        "--followup-of", type=Path, metavar="DIR", help="a later study of the patient of the study that DIR holds"
    )
    phantom.set_defaults(run=_phantom)

    why = commands.add_parser("why", parents=[settings], help="what happened to a study, series or object, and why")
    why.add_argument("uid", metavar="UID")
    why.add_argument("--json", action="store_true")
    why.set_defaults(run=_why)

    seen = commands.add_parser(
        "facts", parents=[settings], help="what Ichor would see in a folder, and what it would do"
    )
    seen.add_argument("folder", type=Path, metavar="DIR")
    seen.add_argument("--json", action="store_true")
    seen.set_defaults(run=_facts)

    array = commands.add_parser("array", parents=[settings], help="whole series of a folder as NIfTI")
    array.add_argument("folder", type=Path, metavar="DIR")
    array.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    array.add_argument("--series", metavar="UID", help="this series only")
    array.set_defaults(run=_array)

    export = commands.add_parser("export", parents=[settings], help="the stored objects of a study or series")
    export.add_argument("uid", metavar="UID")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(run=_export)

    replay = commands.add_parser("replay", parents=[settings], help="run again what was given up for a study")
    replay.add_argument("uid", metavar="UID")
    replay.set_defaults(run=_replay)

    letters = commands.add_parser("dlq", parents=[settings], help="messages that were given up")
    letters.add_argument("verb", choices=("list", "show", "replay"))
    letters.add_argument("letter", nargs="?", metavar="ID")
    letters.set_defaults(run=_dlq)

    told = commands.add_parser("told", parents=[settings], help="is all told that was received here? exit 0 or 1")
    told.add_argument("--wait", type=_seconds, default=0.0, metavar="TIME", help='for it at most, e.g. "5m"')
    told.set_defaults(run=_told)

    doctor = commands.add_parser("doctor", parents=[settings], help="is everything in place?")
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", help="train a network on synthetic heads, or on your own labelled folder")
    train.add_argument("name", metavar="NAME", help="haematoma")
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument("--stage", choices=("segmentation", "expansion"), default="segmentation")
    train.add_argument("--data", type=Path, metavar="DIR", help="labelled cases (docs/training.md); default: phantoms")
    train.add_argument("--architecture", choices=("umamba", "nnunet"), default="umamba", help="of the segmentation")
    train.add_argument("--config", choices=("demo", "paper"), default="demo", help="size of the network")
    train.add_argument(
        "--protocol",
        choices=("demo", "paper"),
        help="default: demo for phantoms, paper for --data, neither with --from",
    )
    train.add_argument(
        "--from",
        dest="begin",
        type=Path,
        metavar="FILE",
        help="begin with the weights of a checkpoint or a model (.onnx) and refine them",
    )
    train.add_argument("--seed", type=_seed, default=0)
    train.add_argument(
        "--minutes", type=float, help="wall clock that the learning rate follows (demo: 60, expansion: 40)"
    )
    train.add_argument("--steps", type=int, help="instead of minutes: repeatable")
    train.add_argument("--heads", type=int, help="synthetic heads to train on (320; expansion: 4000)")
    train.add_argument(
        "--pool", type=Path, metavar="DIR", help="where folders of prepared cases are kept (default: OUT)"
    )
    train.add_argument("--precision", choices=("auto", "f32", "bf16"), default="auto")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--threads", type=int, default=2)
    train.add_argument("--processes", type=int, default=2, help="that prepare cases before the training")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="measure a network on heads it was never trained on")
    evaluate.add_argument("name", metavar="NAME", help="haematoma")
    evaluate.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases; default: phantoms, against the goals"
    )
    evaluate.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="test", help="of the labelled cases"
    )
    evaluate.add_argument(
        "--models", type=Path, metavar="DIR", help="folder of model files (default: the shipped ones)"
    )
    evaluate.add_argument("--model", metavar="MODEL", help="one of them (default: the only one that outlines)")
    evaluate.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="figures, page and plots")
    evaluate.add_argument("--heads", type=int, default=60, help="synthetic heads to measure (acceptance: 60)")
    evaluate.add_argument("--bleeds", type=int, default=200, help="synthetic bleeds for expansion (acceptance: 200)")
    evaluate.add_argument("--pairs", type=int, default=20, help="synthetic heads scanned twice (acceptance: 20)")
    evaluate.add_argument("--card", action="store_true", help="write the figures into the models' cards, too")
    evaluate.set_defaults(run=_evaluate)

    engine = commands.add_parser("engine", parents=[settings], help="models, runtimes and their acceptance gate")
    engine.add_argument("verb", choices=("build", "list", "verify"))
    engine.set_defaults(run=_engine)

    for name in _NOT_BUILT:
        commands.add_parser(name, help="not built in this version")
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError(text)
    return seed


def _seconds(text: str) -> float:
    return TypeAdapter(config.Seconds).validate_python(text)


def _settings(options: argparse.Namespace) -> config.Settings:
    flags: dict[str, object] = {"data": options.data}
    for pair in options.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: KEY=VALUE")
        flags[key] = config.parse_value(value)
    return config.load(options.config, flags=flags)


def _serve(options: argparse.Namespace) -> int:
    settings = _checked(_settings(options), receives=True)
    folder = DataFolder.of(settings)
    folder.prepare()
    handle = folder.lock(alone=True)
    _say_starting("serve", folder)
    with shared_metrics(folder.metrics):
        code = _supervise(settings, folder, *COMMANDS)
    os.close(handle)
    return code


def _role(options: argparse.Namespace) -> int:
    command = options.command
    settings = _checked(_settings(options), receives=command == "receive")
    folder = DataFolder.of(settings)
    folder.prepare()
    handle = folder.lock(alone=False)
    _say_starting(command, folder)
    if len(COMMANDS[command]) > 1:
        code = _supervise(settings, folder, command)
    else:
        from ichor.cli import roles

        code = run_role(command, roles.build(command, settings, folder, together=False), folder.run)
    os.close(handle)
    return 1 if code else 0


def _say_starting(command: str, folder: DataFolder) -> None:
    text = "ichor %s %s (RESEARCH) starts on %s"  # roles are heard only when all that they need is imported
    logging.getLogger(__name__).info(text, __version__, command, folder.root)


def _checked(settings: config.Settings, *, receives: bool) -> config.Settings:
    """Files that settings name are read once, so that what is wrong with them is said before anything starts."""
    settings.token()
    if receives:
        settings.stow_token()
        for sender in settings.senders:
            sender.passcode()
        if settings.listener.tls is not None:
            from listener import tls

            tls.check(settings.listener.tls)
    return settings


def _supervise(settings: config.Settings, folder: DataFolder, *commands: str) -> int:
    count_by_role()
    from ichor.cli import roles  # imports ichor.metrics: after shared_metrics and count_by_role

    roles.write_back(folder)
    roles.register_receiver(settings, folder)
    names = roles.serving(settings, *commands)
    roles.preload(names)
    return Supervisor(roles.build_all(names, settings, folder, together=len(commands) > 1), folder.run).run()


def _demo(options: argparse.Namespace) -> int:
    from ichor.cli.demo import demo

    return demo(once=options.once, data=Path(options.data) if options.data else None, seed=options.seed)


def _push(options: argparse.Namespace) -> int:
    from ichor.cli.push import push

    return push(options.folder, to=options.to, calling_ae=options.calling)


def _phantom(options: argparse.Namespace) -> int:
    from phantoms.ct_study import phantom_command

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IchorError(f"--out {options.out}: {error.strerror}") from error
    truth = phantom_command(
        options.kind,
        seed=options.seed,
        out=options.out,
        bleed=options.bleed,
        slices=options.slices,
        tilt=options.tilt,
        gaps=options.gaps,
        vendor=options.vendor,
        followup_of=options.followup_of,
    )
    volumes = ", ".join(f"{lesion.volume_ml:.1f} mL" for lesion in truth.lesions) or "none"
    print(f"{options.out}: study {truth.study_instance_uid}, {len(truth.files())} objects, haematomas: {volumes}")
    return 0


def _why(options: argparse.Namespace) -> int:
    from ichor.cli.roles import JournalWhenThere, open_folder_bus
    from ichor.history.why import why, why_text

    settings = _settings(options)
    folder = _existing(settings)
    bus, journal = open_folder_bus(settings, folder), JournalWhenThere(folder)
    answer = why(options.uid, bus=bus, journal=journal, shards=settings.assemble.shards)
    if answer is None:
        print(f"ichor why: {options.uid}: nothing is known of it", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2) if options.json else why_text(answer))
    return 0


def _facts(options: argparse.Namespace) -> int:
    from ichor.cli.series_folder import facts

    return facts(options.folder, as_json=options.json, rules=_settings(options).routing())


def _array(options: argparse.Namespace) -> int:
    from ichor.cli.series_folder import array

    return array(options.folder, out=options.out, only=options.series, rules=_settings(options).routing())


def _existing(settings: config.Settings) -> DataFolder:
    folder = DataFolder.of(settings)
    if not folder.root.is_dir():
        raise IchorError(f"data folder {folder.root} does not exist (--data, --config or ICHOR_DATA name another)")
    folder.prepare()
    return folder


def _export(options: argparse.Namespace) -> int:
    from ichor.cli.export import export

    return export(options.uid, out=options.out, folder=_existing(_settings(options)))


def _replay(options: argparse.Namespace) -> int:
    from ichor.cli.dlq import replay_study
    from ichor.cli.roles import open_folder_bus

    settings = _settings(options)
    return replay_study(options.uid, bus=open_folder_bus(settings, _existing(settings)))


def _dlq(options: argparse.Namespace) -> int:
    from ichor.cli.dlq import dlq
    from ichor.cli.roles import open_folder_bus

    settings = _settings(options)
    return dlq(options.verb, options.letter, bus=open_folder_bus(settings, _existing(settings)))


def _told(options: argparse.Namespace) -> int:
    from ichor.cli.receiving import wait_until_told

    return wait_until_told(_existing(_settings(options)), patience=options.wait)


def _doctor(options: argparse.Namespace) -> int:
    from ichor.cli.doctor import doctor

    return doctor(_settings(options))


def _train(options: argparse.Namespace) -> int:
    from ichor.cli.training import run

    return run(options)


def _evaluate(options: argparse.Namespace) -> int:
    from ichor.cli.evaluation import run

    return run(options)


def _engine(options: argparse.Namespace) -> int:
    from ichor.cli.models import engine_command

    settings = _settings(options)
    return engine_command(options.verb, DataFolder.of(settings), own=settings.models)
