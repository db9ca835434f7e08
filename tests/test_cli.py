"""The command line on pipes: what it writes, and what others make of it."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import brotli
import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from command import COMMAND, SECONDS, environment, trioipc, with_password
from test_builtin_chunked import decrypt_by_the_book
from trioipc import DataError
from trioipc.builtin._kdf import Argon2idCost
from trioipc.cli import _header, _plan
from trioipc.cli._arguments import parse
from trioipc.cli._errors import UsageError
from trioipc.cli._password import password_from

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(100_000))
PASSWORD = "corre\u0301ct horse"  # an accent by itself, as some systems type it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a few files."""
    (tmp_path / "text").write_bytes(TEXT)
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def names(folder: Path) -> set[str]:
    """Return what is in a folder."""
    return {path.name for path in folder.iterdir()}


# ---- hash


ODD_NAMES = [
    b"two words",
    b"back\\slash",
    b"line\nend",
    b"re\rturn",
    b"\xff\xfe",
    b"[red]",
    b"\x1b[1m",
]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_check_sums_are_those_of_the_tools(folder: Path, algorithm: str) -> None:
    """To the byte, in the order of the arguments, whatever the files are called."""
    files = [b"text", b"empty", *ODD_NAMES]
    for name in ODD_NAMES:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name)
    done = trioipc("hash", "-a", algorithm, *files, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    tool = f"{algorithm}sum"
    theirs = subprocess.run([tool, *files], cwd=folder, capture_output=True, check=True)
    assert done.stdout == theirs.stdout
    checked = subprocess.run([tool, "--check", "--quiet"], cwd=folder, input=done.stdout)
    assert checked.returncode == 0


def test_one_that_fails_does_not_stop_the_others(folder: Path) -> None:
    """What is wrong with it is said in a line, and the exit code tells."""
    done = trioipc("hash", "small", "missing", ".", "empty", cwd=folder)
    lines = done.stdout.decode().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["small", "empty"]
    assert sorted(done.stderr.decode().splitlines()) == [
        "trioipc: .: Is a directory",
        "trioipc: missing: No such file or directory",
    ]
    assert done.returncode == 1


def test_a_name_cannot_command_a_terminal(folder: Path) -> None:
    """What complaints say of it is printable."""
    done = trioipc("hash", "\x1b]0;owned\x07", cwd=folder)
    assert done.stderr == b"trioipc: \\x1b]0;owned\\x07: No such file or directory\n"


def test_many_files(folder: Path) -> None:
    """More than can be under way, and each is told once."""
    for number in range(200):
        (folder / f"{number:03}").write_bytes(b"%d" % number)
    files = [f"{number:03}" for number in range(200)]
    done = trioipc("hash", "--workers", "3", *files, cwd=folder)
    assert done.stdout.decode().splitlines() == [
        f"{hashlib.sha256(b'%d' % number).hexdigest()}  {number:03}" for number in range(200)
    ]


# ---- compress and decompress

READ = {
    ".gz": gzip.decompress,
    ".zz": zlib.decompress,
    ".br": brotli.decompress,
    ".zst": lambda data: (
        subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    ),
}
NEEDS_ZSTD = pytest.mark.skipif(shutil.which("zstd") is None, reason="no command zstd")
ALGORITHMS = [
    ("gzip", ".gz"),
    ("deflate", ".zz"),
    ("brotli", ".br"),
    pytest.param("zstd", ".zst", marks=NEEDS_ZSTD),
]


@pytest.mark.parametrize(("algorithm", "suffix"), ALGORITHMS)
def test_others_read_what_it_compresses(folder: Path, algorithm: str, suffix: str) -> None:
    """Each algorithm has its suffix; sources stay; it reads its own back, by that suffix."""
    (folder / "text").chmod(0o640)
    done = trioipc("compress", "-a", algorithm, "text", "empty", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    packed = (folder / f"text{suffix}").read_bytes()
    assert READ[suffix](packed) == TEXT
    assert READ[suffix]((folder / f"empty{suffix}").read_bytes()) == b""
    assert done.stdout.decode().splitlines()[0] == (f"text -> text{suffix} ({len(packed)} bytes)")
    assert stat.S_IMODE((folder / f"text{suffix}").stat().st_mode) == 0o640
    (folder / "text").unlink()
    done = trioipc("decompress", f"text{suffix}", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "text").read_bytes() == TEXT
    assert stat.S_IMODE((folder / "text").stat().st_mode) == 0o640
    assert names(folder) == {"text", f"text{suffix}", "small", "empty", f"empty{suffix}"}


@pytest.mark.parametrize("level", ["0", "9"])
def test_levels(folder: Path, level: str) -> None:
    """The level is taken."""
    trioipc("compress", "-l", level, "text", cwd=folder)
    size = (folder / "text.gz").stat().st_size
    assert size > len(TEXT) if level == "0" else size < len(TEXT) / 3


@pytest.mark.parametrize("data", [b"", TEXT], ids=["empty", "much"])
def test_pipes(folder: Path, data: bytes) -> None:
    """From the standard input to the standard output, and nothing is said there."""
    packed = trioipc("compress", "-", cwd=folder, input=data)
    assert (packed.returncode, packed.stderr) == (0, b"")
    assert gzip.decompress(packed.stdout) == data
    back = trioipc("decompress", "-", cwd=folder, input=gzip.compress(data))
    assert (back.returncode, back.stderr, back.stdout) == (0, b"", data)
    hashed = trioipc("hash", "-", cwd=folder, input=data)
    assert hashed.stdout.decode() == f"{hashlib.sha256(data).hexdigest()}  -\n"


def test_files_and_pipes(folder: Path) -> None:
    """A file can go to the standard output, and the standard input to a file."""
    packed = trioipc("compress", "-o", "-", "small", cwd=folder)
    assert gzip.decompress(packed.stdout) == b"small"
    done = trioipc("decompress", "-o", "to", "-", cwd=folder, input=gzip.compress(TEXT))
    assert done.stdout.decode() == f"- -> to ({len(TEXT)} bytes)\n"
    assert (folder / "to").read_bytes() == TEXT


def test_what_goes_out_is_complete_or_nothing(folder: Path) -> None:
    """A reader never takes half of something for all of it."""
    damaged = gzip.compress(TEXT)[:-9]
    done = trioipc("decompress", "-", cwd=folder, input=damaged)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"not complete" in done.stderr


def test_what_is_there_stays(folder: Path) -> None:
    """It is replaced if that is asked for, and keeps its mode."""
    (folder / "small.gz").write_bytes(b"mine")
    (folder / "small.gz").chmod(0o604)
    done = trioipc("compress", "small", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == b"trioipc: small: small.gz is there already: --force replaces it\n"
    assert (folder / "small.gz").read_bytes() == b"mine"
    assert trioipc("compress", "--force", "small", cwd=folder).returncode == 0
    assert gzip.decompress((folder / "small.gz").read_bytes()) == b"small"
    assert stat.S_IMODE((folder / "small.gz").stat().st_mode) == 0o604


def test_no_more_than_is_wanted(folder: Path) -> None:
    """A bomb is refused, and leaves nothing."""
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(10 << 20)))
    done = trioipc("decompress", "--max-size", "1000000", "bomb.gz", cwd=folder)
    assert done.stderr == b"trioipc: bomb.gz: it would become larger than --max-size\n"
    assert done.returncode == 1
    assert "bomb" not in names(folder)
    assert trioipc("decompress", "bomb.gz", cwd=folder).returncode == 0


def test_names_that_do_not_tell(folder: Path) -> None:
    """It is said what would, and the others are done."""
    (folder / "good.gz").write_bytes(gzip.compress(b"good"))
    done = trioipc("decompress", "small", "good.gz", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == (
        b"trioipc: small: its name does not end in .gz, .zz, .br, .zst: say --algorithm\n"
    )
    assert (folder / "good").read_bytes() == b"good"


def test_two_that_would_be_one(folder: Path) -> None:
    """The second one is refused, rather than lost."""
    done = trioipc("compress", "small", "./small", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == b"trioipc: ./small: ./small.gz would be written twice\n"
    assert gzip.decompress((folder / "small.gz").read_bytes()) == b"small"


def test_a_file_onto_itself(folder: Path) -> None:
    """Is refused before anything is written."""
    done = trioipc("compress", "--force", "small", "-o", "small", cwd=folder)
    assert done.returncode == 1
    assert b"are the same file" in done.stderr
    assert (folder / "small").read_bytes() == b"small"


# ---- encrypt and decrypt


def test_round_trip(folder: Path) -> None:
    """Sources stay; both kinds of new files are their owner's alone; the password is enough."""
    (folder / "text").chmod(0o644)
    done = with_password(PASSWORD, "encrypt", "text", "empty", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert stat.S_IMODE((folder / "text.trioipc").stat().st_mode) == 0o600
    assert (folder / "text").read_bytes() == TEXT
    (folder / "text").unlink()
    (folder / "empty").unlink()
    done = with_password(PASSWORD, "decrypt", "empty.trioipc", "text.trioipc", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "text").read_bytes() == TEXT
    assert (folder / "empty").read_bytes() == b""
    assert stat.S_IMODE((folder / "text").stat().st_mode) == 0o600


def test_the_format_is_as_it_is_written_down(folder: Path) -> None:
    """Another implementation reads it, by what the header says; the password is in form NFC."""
    with_password(PASSWORD, "encrypt", "text", cwd=folder)
    data = (folder / "text.trioipc").read_bytes()
    magic, version, kdf, memory, iterations, lanes, salt = struct.unpack(">8sBBIII16s", data[:38])
    assert (magic, version, kdf) == (b"trioipc\0", 1, 1)
    assert (memory, iterations, lanes) == (65536, 3, 4)  # RFC 9106, section 4
    derive = Argon2id(
        salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory
    ).derive
    key = derive("corr\u00e9ct horse".encode())
    assert decrypt_by_the_book(data[38:], key, data[:38], SHA512()) == TEXT


def test_no_two_files_are_alike(folder: Path) -> None:
    """The same content is another one each time, also in one run."""
    (folder / "again").write_bytes(TEXT)
    with_password(PASSWORD, "encrypt", "text", "again", cwd=folder)
    first, second = (folder / f"{name}.trioipc" for name in ("text", "again"))
    assert first.read_bytes()[38:62] != second.read_bytes()[38:62]
    with_password(PASSWORD, "encrypt", "--force", "text", cwd=folder)
    assert first.read_bytes()[22:38] != second.read_bytes()[22:38]


def test_another_password(folder: Path) -> None:
    """Is found out; nothing is written, and no password said."""
    with_password(PASSWORD, "encrypt", "text", cwd=folder)
    done = with_password("wrong one", "decrypt", "-o", "out", "text.trioipc", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == (
        b"trioipc: text.trioipc: wrong password, or the file was damaged or changed\n"
    )
    assert "out" not in names(folder)


def test_damaged_files(folder: Path) -> None:
    """Whichever part it is: it is said, nothing is written, and the good ones are decrypted."""
    with_password(PASSWORD, "encrypt", "text", cwd=folder)
    data = (folder / "text.trioipc").read_bytes()
    # In the magic, the version, the cost, the salt, the salt and the commitment of the message, its
    # first chunk, its last.
    places = [0, 8, 21, 25, 40, 70, 100, len(data) - 1]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1
        (folder / f"{place}.trioipc").write_bytes(changed)
    for size in (0, 5, 37, 38, 100, len(data) - 1):
        (folder / f"cut{size}.trioipc").write_bytes(data[:size])
    bad = sorted(name for name in names(folder) if name != "text.trioipc" and "." in name)
    (folder / "text").unlink()
    done = with_password(PASSWORD, "decrypt", *bad, "text.trioipc", cwd=folder)
    assert done.returncode == 1
    assert sorted(line.split(": ")[1] for line in done.stderr.decode().splitlines()) == bad
    assert {name for name in names(folder) if "." not in name} == {"text", "small", "empty"}
    assert (folder / "text").read_bytes() == TEXT


def test_every_byte_of_a_header_counts() -> None:
    """Each of them, changed, is refused or makes another key or context."""
    header = _header.Header(bytes(range(16)))
    packed = header.pack()
    assert _header.unpack(packed + b"more") == header
    assert len(packed) == _header.HEADER_SIZE == 38
    for place in range(len(packed)):
        changed = bytearray(packed)
        changed[place] ^= 1
        try:
            found = _header.unpack(bytes(changed))
        except DataError:
            continue
        assert found != header


@pytest.mark.parametrize(
    ("cost", "named"),
    [
        ((2**32 - 1, 1, 1), "memory_cost must be"),
        ((2**20, 17, 1), r"memory_cost \* iterations"),
        ((8, 2**32 - 1, 1), "iterations must be"),
        ((65536, 3, 2**32 - 1), "lanes must be"),
        ((0, 1, 1), "memory_cost must be"),
        ((65536, 0, 1), "iterations must be"),
        ((65536, 1, 0), "lanes must be"),
        ((8, 1, 16), r"memory_cost must be >= 8 \* lanes"),
    ],
)
def test_costs_of_a_hostile_header(cost: tuple[int, int, int], named: str) -> None:
    """Are refused before anything is derived, and the text says which and why."""
    packed = struct.pack(">8sBBIII16s", b"trioipc\0", 1, 1, *cost, bytes(16))
    with pytest.raises(DataError, match=named):
        _header.unpack(packed)


def test_headers_keep_their_cost() -> None:
    """What another version wrote is derived as that one did."""
    header = _header.Header(bytes(16), Argon2idCost(memory_cost=64, iterations=5, lanes=2))
    assert _header.unpack(header.pack()) == header


def read_password(text: bytes) -> str:
    """Read what stands in a file of that text."""
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.seek(0)
        return password_from(file.fileno(), twice=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\n", "the password is empty"),
        (b"", "the password is empty"),
        (b"\xff\xfe\n", "a password must be UTF-8"),
        (b"x" * (1 << 21), "a password has at most 1048576 bytes"),
    ],
    ids=["empty", "none", "no text", "long"],
)
def test_passwords_that_are_none(text: bytes, said: str) -> None:
    """It is said why, and the password is not shown."""
    with pytest.raises(UsageError) as caught:
        read_password(text)
    assert str(caught.value) == said


@pytest.mark.parametrize("text", [b"pass\r\n", b"pass", b"pass\nmore\n"])
def test_a_password_is_a_line(text: bytes) -> None:
    """Its end does not belong to it, nor does what follows."""
    assert read_password(text) == "pass"


def test_a_password_needs_a_terminal_or_a_descriptor(folder: Path) -> None:
    """Without either, it is said what would do."""
    done = trioipc("encrypt", "small", cwd=folder, start_new_session=True)
    assert done.returncode == 2
    assert done.stderr == (
        b"trioipc: there is no terminal to ask for the password: use --password-fd\n"
    )
    done = trioipc("encrypt", "--password-fd", "77", "small", cwd=folder)
    assert done.returncode == 2
    assert b"descriptor 77: Bad file descriptor" in done.stderr


# ---- detect and probe


def test_types(folder: Path) -> None:
    """By content first, whatever the name says."""
    (folder / "a.txt").write_bytes(gzip.compress(b"x"))
    (folder / "b.json").write_bytes(b"?")
    done = trioipc("detect", "a.txt", "b.json", "missing", cwd=folder)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "a.txt: application/gzip (gz, by its content)"
    assert lines[1].startswith("b.json: ")
    assert lines[1].endswith(", by its name)")
    assert done.returncode == 1


@contextmanager
def website() -> Iterator[str]:
    """Serve nothing much, by the standard library."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_hosts(folder: Path) -> None:
    """Any answer is one; who does not answer is said in its turn."""
    with socket.socket() as unused, website() as url:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        done = trioipc("probe", dead, url, cwd=folder)
        lines = done.stdout.decode().splitlines()
        assert lines[0] == f"{dead}: no answer (connect)"
        assert lines[1].startswith(f"{url}: status 404 after ")
        assert done.returncode == 1
        assert trioipc("probe", url, cwd=folder).returncode == 0
    done = trioipc("probe", "ftp://127.0.0.1/", cwd=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"http://" in done.stderr


# ---- doctor


def test_the_doctor(folder: Path) -> None:
    """Says what there is, and tries a start, an echo, a payload and a cancel."""
    done = trioipc("doctor", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert f"cores           {len(os.sched_getaffinity(0))} of {os.cpu_count()}" in text
    for word in (
        "trio-parallel",
        "memory memfd    yes",
        "spawn",
        "worker start",
        "echo",
        "payload",
    ):
        assert word in text
    assert "a sleeping function was stopped" in text
    assert text.endswith("all is well\n")


UNABLE = """
import resource, sys
from contextlib import asynccontextmanager
import trioipc.bridge._home, trioipc.cli._doctor
from trioipc import WorkerStartError, open_worker_pool

@asynccontextmanager
async def unable(size, *, kind="cpu", **options):
    if kind == "cpu":
        raise WorkerStartError("no processes here")
    async with open_worker_pool(size, kind=kind, **options) as pool:
        yield pool

trioipc.bridge._home.open_worker_pool = trioipc.cli._doctor.open_worker_pool = unable
from trioipc.__main__ import main
sys.exit(main())
"""


def test_without_processes(folder: Path) -> None:
    """The doctor finds out; files are worked on all the same, and it is said."""
    command = [sys.executable, "-W", "error", "-c", UNABLE]
    done = subprocess.run([*command, "doctor"], capture_output=True, env=environment())
    assert done.returncode == 1
    assert done.stderr == b"trioipc: this does not work here: no processes here\n"
    assert b"all is well" not in done.stdout
    done = subprocess.run(
        [*command, "hash", "small"], cwd=folder, capture_output=True, env=environment()
    )
    assert done.returncode == 0
    assert done.stdout.decode() == f"{hashlib.sha256(b'small').hexdigest()}  small\n"
    assert b"works on threads: no processes here" in done.stderr
    assert b"Traceback" not in done.stderr


# ---- what is not understood


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["bake", "small"], "invalid choice"),
        (["hash"], "required: FILE"),
        (["hash", "-", "-"], "only one standard input"),
        (["encrypt", "-"], "encrypt takes files, and no -"),
        (["decrypt", "small", "-o", "-"], "decrypt takes files, and no -"),
        (["compress", "small", "text", "-o", "x"], "--output is for one file only"),
        (["compress", "-l", "10", "small"], "--level must be 0 to 9 here, not 10"),
        (["compress", "-a", "zstd", "-l", "0", "small"], "--level must be 1 to 19 here, not 0"),
        (["hash", "--workers", "0", "small"], "must be at least 1, not 0"),
        (["hash", "--workers", "some", "small"], "invalid"),
        (["probe", "--timeout", "inf", "http://x"], "must be more than 0, and finite"),
        (["encrypt", "--password", "secret", "small"], ""),
    ],
)
def test_what_is_not_understood(folder: Path, arguments: list[str], said: str) -> None:
    """Is code 2, with a word of what is wrong, and nothing is done."""
    done = trioipc(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert names(folder) == {"text", "small", "empty"}


def test_an_environment_that_is_wrong(folder: Path) -> None:
    """Is said like an argument."""
    done = trioipc("hash", "small", cwd=folder, env=environment(TRIOIPC_PLACEMENT="moon"))
    assert done.returncode == 2
    assert done.stderr == (
        b"trioipc: TRIOIPC_PLACEMENT must be one of process, thread, auto, not 'moon'\n"
    )


def test_help(folder: Path) -> None:
    """Is there for each command, and names the exit codes."""
    done = trioipc("--help", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "130 Ctrl-C" in text
    for command in ("hash", "encrypt", "decrypt", "compress", "decompress", "detect", "probe"):
        assert command in text
        with pytest.raises(SystemExit) as caught:
            parse([command, "--help"])
        assert caught.value.code == 0


def test_the_door_loads_nothing() -> None:
    """Each worker loads it again, and needs none of the command line."""
    code = "import sys, trioipc.__main__; print([n for n in sys.modules if 'trio' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['trioipc', 'trioipc.__main__']\n"


# ---- no room, and nobody who reads


def test_a_full_disk(folder: Path) -> None:
    """Is said; what was written is gone, and what was there is as it was."""
    (folder / "noise").write_bytes(os.urandom(3 << 20))
    (folder / "disk").mkdir()
    (folder / "pass").write_text("pass\n")
    script = (
        "mount -t tmpfs -o size=1m none disk && echo mine > disk/old && "
        '"$@" compress -f -l 0 noise -o disk/old; echo $?; '
        '"$@" encrypt --password-fd 3 noise -o disk/new 3<pass; echo $?; '
        '"$@" compress -o disk/small small; ls -A disk; cat disk/old'
    )
    # A file system of one's own, of which nothing stays.
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *COMMAND],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SECONDS,
    )
    assert done.stderr.splitlines() == ["trioipc: noise: No space left on device"] * 2
    assert done.stdout.splitlines() == [
        "1",
        "1",
        "small -> disk/small (25 bytes)",
        "old",
        "small",
        "mine",
    ]


def test_an_output_without_room(folder: Path) -> None:
    """Is code 1, and a word; also where the result itself goes there."""
    with open("/dev/full", "wb") as full:
        for arguments in (["hash", "small"], ["compress", "-o", "-", "small"]):
            done = subprocess.run(
                [*COMMAND, *arguments],
                cwd=folder,
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            assert done.returncode == 1
            assert b"No space left on device" in done.stderr
            assert done.stderr.count(b"\n") == 1


def test_nobody_reads(folder: Path) -> None:
    """As other programs do: it ends without a word, as if by SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    for arguments in (["hash", "small", "text"], ["compress", "-o", "-", "text"]):
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    os.close(write)


def test_no_output_at_all(folder: Path) -> None:
    """It was closed before: what goes to files goes there all the same, and the rest is said."""
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "hash", "small"],
        cwd=folder,
        capture_output=True,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"trioipc: the output cannot be written: it is closed\n"


# ---- what goes where


@pytest.mark.parametrize(
    ("file", "output", "algorithm", "expected"),
    [
        ("a.gz", None, None, ("a", "gzip")),
        ("x/a.tar.zst", None, None, ("x/a.tar", "zstd")),
        ("a.br", "b", None, ("b", "brotli")),
        ("a.gz", None, "brotli", ("a", "brotli")),
        ("a", "b", "zstd", ("b", "zstd")),
        ("a", "b", None, None),
        ("a", None, "zstd", None),
        ("x/.gz", None, None, None),
        ("-", None, None, ("-", "gzip")),
        ("-", "b", "brotli", ("b", "brotli")),
    ],
)
def test_where_it_is_decompressed_to(
    file: str, output: str | None, algorithm: str | None, expected: tuple[str, str] | None
) -> None:
    """As the name or the options say."""
    job = _plan.decompressing(algorithm)(file, output)  # type: ignore[arg-type]
    if expected is None:
        assert job.problem is not None
    else:
        assert (job.output, job.algorithm, job.problem) == (*expected, None)
