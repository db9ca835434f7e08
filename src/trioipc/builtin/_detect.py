"""What kind of file something is, by its first 64 KiB, and by its name if those do not tell.

Guarantees:

- Nothing is opened here, no file of that name and no other, and nothing is unpacked.
- It takes bytes as they come: whatever they are, the answer is a type and no exception.
- ``"high"`` means that the content says so, by a signature that nothing else has or by several
  weak ones at once. Text without a signature is not that sure, nor is a name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trioipc._errors import RequestInterrupt
from trioipc.builtin._kinds import (
    KINDS,
    SIGNATURES,
    TYPE_OF_EXTENSION,
    TYPE_OF_MIME,
    UNKNOWN,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeAlias

    Confidence: TypeAlias = Literal["high", "low"]
    # type, media type, how sure that is
    Answer: TypeAlias = tuple[str, str, Confidence]

# How much of a file is looked at.
HEAD = 64 << 10


def detect(head: bytes, name: str | None) -> Answer:
    """Say what a file is.

    Args:
      head: Its first `HEAD` bytes, or all of them.
      name: What it is called, if anybody knows.
    """
    known = by_content(head)
    if known is not None:
        return known, KINDS[known][0], "high"
    found = _by_library(head)
    # Which language a text is in, the library can only guess.
    is_text = found is not None and found[1].startswith("text/")
    if found is not None and not is_text:
        return *found, "high"
    return *(_by_name(name) or found or _by_look(head)), "low"


def _by_name(name: str | None) -> tuple[str, str] | None:
    extension = extension_of(name)
    if extension in TYPE_OF_EXTENSION:
        kind = TYPE_OF_EXTENSION[extension]
        return kind, KINDS[kind][0]
    import mimetypes

    # Not guess_type, which opens the system's own tables.
    mime = mimetypes.types_map.get(f".{extension}")
    return None if mime is None else (extension, mime)


def _by_look(head: bytes) -> tuple[str, str]:
    kind = "txt" if _is_text(head) else UNKNOWN
    return kind, KINDS[kind][0]


def extension_of(name: str | None) -> str:
    """Return what a file name ends with behind its last dot, in lower case; empty if nothing."""
    last = re.split(r"[/\\]", name or "")[-1]
    stem, dot, extension = last.rpartition(".")
    return extension.lower() if stem and dot else ""


# ---- by content


def by_content(head: bytes) -> str | None:
    """Return the type that the content has, if it says so."""
    for offset, signature, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    for look in _LOOKS:
        found = look(head)
        if found is not None:
            return found
    return None


def _u16(data: bytes, at: int, order: Literal["little", "big"] = "little") -> int:
    return int.from_bytes(data[at : at + 2], order)


def _u32(data: bytes, at: int, order: Literal["little", "big"] = "little") -> int:
    return int.from_bytes(data[at : at + 4], order)


def _gzip(head: bytes) -> str | None:
    # RFC 1952, 2.3: the one method, no reserved flag.
    return "gz" if head[:3] == b"\x1f\x8b\x08" and len(head) > 3 and not head[3] & 0xE0 else None


def _zstd(head: bytes) -> str | None:
    # A frame that is to be skipped (RFC 8878, 3.1.2), and then one that is not.
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        rest = head[8 + _u32(head, 4) :]
        return "zst" if rest.startswith(b"\x28\xb5\x2f\xfd") else None
    return None


def _bzip2(head: bytes) -> str | None:
    # A block begins with the digits of pi, the end of an empty file with those of its root.
    if head[:3] == b"BZh" and head[3:4] in b"123456789":
        return "bz2" if head[4:10] in (b"1AY&SY", b"\x17rE8P\x90") else None
    return None


def _jpeg(head: bytes) -> str | None:
    # SOI, and a marker that may follow it.
    if head[:3] == b"\xff\xd8\xff" and head[3:4] and head[3] >= 0xC0 and head[3] != 0xFF:
        return "jpg"
    return None


def _jxl(head: bytes) -> str | None:
    # A bare codestream has two bytes of signature; its size header is one of the few that occur.
    return "jxl" if head[:2] == b"\xff\x0a" and head[2:4] and b"\0\0" in head[:64] else None


def _bmp(head: bytes) -> str | None:
    if head[:2] != b"BM" or head[6:10] != b"\0\0\0\0":
        return None
    # The sizes of the headers that there have been, and the one plane that they all say.
    sizes = (12, 16, 40, 52, 56, 64, 108, 124)
    size = _u32(head, 14)
    planes = _u16(head, 22 if size == 12 else 26)
    return "bmp" if size in sizes and planes == 1 else None


def _icon(head: bytes) -> str | None:
    if head[:4] not in (b"\0\0\1\0", b"\0\0\2\0"):
        return None
    count = _u16(head, 4)
    size, offset = _u32(head, 14), _u32(head, 18)
    if not 0 < count <= 256 or len(head) < 22 or head[9] or not size:
        return None
    if offset < 6 + 16 * count:
        return None
    return "ico" if head[2] == 1 else "cur"


def _riff(head: bytes) -> str | None:
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64"):
        return None
    return {b"WAVE": "wav", b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12])


def _iff(head: bytes) -> str | None:
    return "aif" if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC") else None


# {major or compatible brand of an ISO base media file: the type} (ISO/IEC 14496-12; mp4ra.org)
_BRANDS = {
    b"avif": "avif", b"avis": "avif",
    b"heic": "heic", b"heix": "heic", b"heim": "heic", b"heis": "heic", b"hevc": "heic",
    b"hevx": "heic", b"mif1": "heic", b"msf1": "heic",
    b"qt  ": "mov",
    b"M4A ": "m4a", b"M4B ": "m4a",
    b"M4V ": "m4v", b"M4VH": "m4v", b"M4VP": "m4v",
    b"crx ": "cr3",
    b"jp2 ": "jp2", b"jpx ": "jpx",
}  # fmt: skip


def _iso_media(head: bytes) -> str | None:
    box = head[4:8]
    if box == b"jP  " and head[8:12] == b"\r\n\x87\n":
        return _BRANDS.get(head[20:24], "jp2")
    if box == b"ftyp":
        end = min(_u32(head, 0, "big"), len(head), 256)
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
        if len(brands[0]) < 4:
            return None
        return _brand(brands)
    # Files of QuickTime that are older than the box of brands.
    if box in (b"moov", b"mdat", b"wide") and head[:4] != b"\0\0\0\0":
        return "mov" if any(each in head for each in (b"mvhd", b"mdat", b"cmov")) else None
    return None


def _brand(brands: list[bytes]) -> str:
    major = brands[0]
    if major in (b"mif1", b"msf1"):  # says that it is an image, and others say which
        return "avif" if b"avif" in brands or b"avis" in brands else "heic"
    if major[:3] in (b"3gp", b"3gr", b"3gs", b"3ge", b"3gg"):
        return "3gp"
    if major[:3] == b"3g2":
        return "3g2"
    return _BRANDS.get(major, "mp4")


def _matroska(head: bytes) -> str | None:
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    at = head.find(b"\x42\x82", 4, 256)  # the element DocType
    if at < 0:
        return None
    return {b"webm": "webm", b"matr": "mkv"}.get(head[at + 3 : at + 7])


def _ogg(head: bytes) -> str | None:
    if head[:5] != b"OggS\0" or len(head) < 36:
        return None
    packet = head[27 + head[26] :]
    if packet.startswith(b"OpusHead"):
        return "opus"
    if packet.startswith((b"\x80theora", b"fishead", b"BBCD\0", b"\x01video")):
        return "ogv"
    return "ogg"


_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_ASF_VIDEO = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")


def _asf(head: bytes) -> str | None:
    if not head.startswith(_ASF):
        return None
    if _ASF_VIDEO in head:
        return "wmv"
    return "wma" if _ASF_AUDIO in head else "asf"


def _flash(head: bytes) -> str | None:
    if head[:3] not in (b"FWS", b"CWS", b"ZWS") or len(head) < 9:
        return None
    return "swf" if 1 <= head[3] <= 60 and _u32(head, 4) >= 20 else None


def _transport_stream(head: bytes) -> str | None:
    for size, start in ((188, 0), (192, 4)):
        marks = head[start : start + 5 * size : size]
        if marks == b"GGGGG":
            return "ts"
    return None


# Of MPEG audio: kbit/s by (version 1?, layer), Hz by version, as in ISO/IEC 11172-3 and 13818-3.
_BITRATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _mpeg_frame(head: bytes, at: int) -> int:
    """Return how long the frame of MPEG audio is that begins there; 0 if none does."""
    if len(head) < at + 4 or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, 4 - (head[at + 1] >> 1 & 3)
    bitrate, rate, padding = head[at + 2] >> 4, head[at + 2] >> 2 & 3, head[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    bits = 1000 * _BITRATES[version == 3, layer][bitrate]
    if layer == 1:
        return (12 * bits // _RATES[version][rate] + padding) * 4
    half = layer == 3 and version != 3
    return (72 if half else 144) * bits // _RATES[version][rate] + padding


def _adts_frame(head: bytes, at: int) -> int:
    """Likewise for AAC in ADTS (ISO/IEC 13818-7)."""
    if len(head) < at + 7 or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0:
        return 0
    if head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0


def _sound(head: bytes) -> str | None:
    """Look for frames of sound, of which several must follow each other, and for an ID3 tag."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] in (2, 3, 4):
        if any(byte & 0x80 for byte in head[6:10]):
            return None
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        if head.startswith(b"fLaC", start):
            return "flac"
        if _frames(head, start, _adts_frame):
            return "aac"
        return "mp3"
    if _frames(head, start, _adts_frame):
        return "aac"
    return "mp3" if _frames(head, start, _mpeg_frame) else None


def _frames(head: bytes, at: int, frame: Callable[[bytes, int], int]) -> bool:
    """Say whether three frames follow each other."""
    for _ in range(3):
        length = frame(head, at)
        if not length:
            return False
        at += length
    return True


def _mach_or_class(head: bytes) -> str | None:
    # Both have the same signature; then the one has how many programs there are in it, the other
    # its version, which begins at 45.
    if head[:4] != b"\xca\xfe\xba\xbe" or len(head) < 8:
        return None
    number = _u32(head, 4, "big")
    if 0 < number <= 20:
        return "macho"
    return "class" if 45 <= number & 0xFFFF < 100 else None


def _windows_program(head: bytes) -> str | None:
    if head[:2] != b"MZ" or len(head) < 64:
        return None
    at = _u32(head, 60)
    if head[at : at + 4] == b"PE\0\0" or head[at : at + 2] in (b"NE", b"LE", b"LX"):
        return "exe"
    # One for DOS: its header has at least 2 paragraphs, its last page at most 512 bytes.
    is_dos = _u16(head, 2) < 512 and _u16(head, 4) > 0 and 2 <= _u16(head, 8) < 4096
    return "exe" if is_dos and _u16(head, 24) in (0x1C, 0x1E, 0x20, 0x22, 0x3E, 0x40) else None


def _truetype(head: bytes) -> str | None:
    if head[:4] not in (b"\0\1\0\0", b"true") or len(head) < 28:
        return None
    count = _u16(head, 4, "big")
    tags = [head[at : at + 4] for at in range(12, min(12 + 16 * count, len(head)), 16)]
    if not 0 < count < 100 or not all(re.fullmatch(rb"[!-~]{3}[ -~]", tag) for tag in tags):
        return None
    return "ttf" if {b"head", b"cmap", b"glyf", b"GDEF", b"DSIG", b"OS/2"} & {*tags} else None


def _pcapng(head: bytes) -> str | None:
    is_section = head[:4] == b"\n\r\r\n"
    return "pcapng" if is_section and head[8:12] in (b"\x1a+<M", b"M<+\x1a") else None


def _old_tar(head: bytes) -> str | None:
    """Look for the check sum of a header without a signature."""
    if len(head) < 512 or not head[0] or head[257:262] == b"ustar":
        return None
    text = head[148:156].strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]{3,7}", text):
        return None
    total = sum(head[:148]) + 8 * 0x20 + sum(head[156:512])
    return "tar" if int(text, 8) == total else None


def _portable_map(head: bytes) -> str | None:
    # Netpbm: a letter, two numbers, with white space between, and comments.
    if re.match(rb"P[1-6](?:\s|#[^\n]{0,500}\n){1,50}[0-9]{1,9}\s{1,50}[0-9]{1,9}\s", head[:4096]):
        return "pnm"
    return "pnm" if head.startswith(b"P7\nWIDTH ") else None


# ---- by content: archives that documents are


# {what a document that is a ZIP says about itself in its first member: the type}
_DECLARED = {KINDS[kind][0].encode(): kind for kind in ("odt", "ods", "odp", "odg", "epub")}
# {the folder of a document in an Open Packaging container: the type}
_FOLDERS = {b"word": "docx", b"xl": "xlsx", b"ppt": "pptx"}


def _zip(head: bytes) -> str | None:
    if head[:4] != b"PK\3\4" or len(head) < 30:
        return None
    names = [
        head[match.start() + 30 : match.start() + 30 + _u16(head, match.start() + 26)]
        for match in re.finditer(b"PK\3\4", head)
    ]
    if names[0] == b"mimetype":
        declared = head[38 + _u16(head, 28) :][:80]
        # Of those that begin alike, the longest.
        for mime in sorted(_DECLARED, key=len, reverse=True):
            if declared.startswith(mime):
                return _DECLARED[mime]
    if any(name == b"[Content_Types].xml" or name.startswith(b"_rels/") for name in names):
        folders = (name.partition(b"/")[0] for name in names)
        return next((_FOLDERS[folder] for folder in folders if folder in _FOLDERS), "zip")
    if b"AndroidManifest.xml" in names or b"classes.dex" in names:
        return "apk"
    return "jar" if b"META-INF/MANIFEST.MF" in names else "zip"


# {a stream of a compound file: the type}
_STREAMS = {
    "WordDocument": "doc",
    "Workbook": "xls",
    "Book": "xls",
    "PowerPoint Document": "ppt",
    "VisioDocument": "vsd",
    "__properties_version1.0": "msg",
}
_MSI = bytes.fromhex("84100c0000000000c000000000000046")


def _compound(head: bytes) -> str | None:
    """Look into a compound file (MS-CFB): at its directory, or else for what it would hold."""
    if head[:8] != b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" or len(head) < 512:
        return None
    size = 1 << min(_u16(head, 30), 16)
    start = (_u32(head, 48) + 1) * size
    for at in range(start, min(start + size, len(head)), 128):
        entry = head[at : at + 128]
        name = entry[: max(min(_u16(entry, 64), 64) - 2, 0)].decode("utf-16-le", "replace")
        if name in _STREAMS:
            return _STREAMS[name]
        if name == "Root Entry" and entry[80:96] == _MSI:
            return "msi"
    for name, kind in _STREAMS.items():
        if (name + "\0").encode("utf-16-le") in head and len(name) > 4:
            return kind
    return _first_sector(head[512:520])


def _first_sector(sector: bytes) -> str | None:
    """Say which document's stream begins there, as it mostly does."""
    if sector[:2] == b"\xec\xa5":
        return "doc"
    if sector[:4] in (b"\x09\x08\x10\x00", b"\x09\x08\x08\x00"):
        return "xls"
    is_slide = sector[:4] in (b"\x0f\x00\xe8\x03", b"\xa0\x46\x1d\xf0", b"\x00\x6e\x1e\xf0")
    return "ppt" if is_slide else None


# ---- by content: text that says what it is

_ROOTS = {
    b"svg": "svg", b"html": "xhtml", b"rss": "rss", b"feed": "atom", b"gpx": "gpx", b"kml": "kml",
    b"plist": "plist",
}  # fmt: skip


def _markup(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_xml = text.startswith(b"<?xml ")
    start = text[:32].lower()
    if start.startswith((b"<!doctype html", b"<html>", b"<html ")):
        return "html"
    if not is_xml and not start.startswith((b"<svg ", b"<svg\n", b"<!doctype svg")):
        return None
    root = _root_of(text)
    return _ROOTS.get(root, "xml" if is_xml else None)


def _root_of(text: bytes) -> bytes:
    """Return the name of the first element, in lower case, without its prefix."""
    at = 0
    while (at := text.find(b"<", at)) >= 0:
        if text.startswith(b"<!--", at):
            at = text.find(b"-->", at)
        elif text.startswith((b"<?", b"<!"), at):
            at = text.find(b">", at)
        else:
            name = re.match(rb"<(?:[\w.-]{1,64}:)?([\w.-]{1,64})", text[at : at + 160])
            return name[1].lower() if name else b""
        if at < 0:
            break
    return b""


_SHELLS = (b"sh", b"bash", b"dash", b"zsh", b"ksh")


def _script(head: bytes) -> str | None:
    match = re.match(rb"#! {0,8}(/[^\n]{0,200})\n", head)
    if match is None:
        return None
    words = match[1].split()
    program = words[0].rpartition(b"/")[2]
    if program == b"env" and len(words) > 1:
        program = words[-1]
    if program in _SHELLS:
        return "sh"
    return "py" if program.startswith(b"python") else None


_LOOKS: tuple[Callable[[bytes], str | None], ...] = (
    _jpeg, _zip, _gzip, _iso_media, _riff, _compound, _markup, _matroska, _ogg, _bzip2, _zstd,
    _bmp, _icon, _iff, _asf, _flash, _windows_program, _mach_or_class, _truetype, _pcapng,
    _script, _sound, _transport_stream, _old_tar, _portable_map,
)  # fmt: skip


def _is_text(head: bytes) -> bool:
    """Say whether this is UTF-8 without control characters; the last character may be cut off."""
    if not head or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) == HEAD and error.end == HEAD and HEAD - error.start < 4
    return True


# ---- by a library, if it is installed

_libraries: list[Any] = []  # [0] is its rules, which take 15 ms to load


def _by_library(head: bytes) -> tuple[str, str] | None:
    """Ask pure-magic-rs, the extra ``filetype``; None if it does not know, or is not there."""
    try:
        from pure_magic_rs import MagicDb
    except ImportError:
        return None
    try:
        if not _libraries:
            _libraries.append(MagicDb())
        found = _libraries[0].best_magic_buffer(head)
        mime, extensions = str(found.mime_type or "").strip(), [*found.extensions]
    except (RequestInterrupt, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of Rust is no Exception
        return None
    if mime in ("", "text/plain", "application/octet-stream"):
        return None
    if mime in TYPE_OF_MIME:
        return TYPE_OF_MIME[mime], mime
    kind = "txt" if mime.startswith("text/") else mime.rpartition("/")[2].removeprefix("x-")
    return (min(extensions) if extensions and kind not in extensions else kind), mime
