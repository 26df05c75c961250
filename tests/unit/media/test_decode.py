from __future__ import annotations

import struct
import tracemalloc
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tercet.media.decode import FORMATS, decode
from tercet.media.errors import PictureError
from tests.unit.media.files import claims, encoded, picture
from tests.unit.test_floors import run_python

MOST = 10_000


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read(form: str) -> None:
    got = decode(picture(form=form), MOST)
    assert (got.mode, got.size) == ("RGB", (48, 32))


def test_pixels_are_the_files() -> None:
    data = picture()
    assert decode(data, MOST).tobytes() == decode(encoded(decode(data, MOST)), MOST).tobytes()
    assert decode(picture(seed=1), MOST).tobytes() != decode(data, MOST).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_shines_through_is_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    clear.putpixel((0, 0), {"RGBA": (0, 0, 255, 255), "LA": (0, 255)}.get(mode, 0))
    got = decode(encoded(clear), MOST)
    assert got.mode == "RGB" and got.getpixel((3, 3)) == (255, 255, 255)


def test_a_picture_stands_upright_and_the_first_frame_counts() -> None:
    lying = Image.new("RGB", (20, 10), "red")
    exif = lying.getexif()
    exif[0x0112] = 6  # turn it by a quarter
    lying.save(file := BytesIO(), "JPEG", exif=exif)
    assert decode(file.getvalue(), MOST).size == (10, 20)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    frames[0].save(moving := BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    assert decode(moving.getvalue(), MOST).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_every_way_to_stand_is_known(mode: str, orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12), np.uint8)
    lying = Image.fromarray(noise).convert("RGB") if mode == "RGB" else Image.fromarray(noise * np.uint16(257))
    exif = lying.getexif()
    exif[0x0112] = orientation
    lying.save(file := BytesIO(), "PNG", exif=exif)
    plain = Image.fromarray(noise)
    plain.getexif()[0x0112] = orientation
    assert decode(file.getvalue(), MOST).tobytes() == ImageOps.exif_transpose(plain).convert("RGB").tobytes()


def _directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Return EXIF data with these (tag, type, count, value)."""
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


LYING = (0x0112, 3, 1, 6)


@pytest.mark.parametrize(
    "exif",
    [
        _directory(LYING, (0x011A, 9, 1, 0xFFFFFFFF)),  # where a resolution's numbers would be
        _directory((0x0111, 2, 1, 6), LYING),  # words where a number belongs
    ],
    ids=["negative", "words"],
)
def test_a_picture_whose_exif_data_can_be_read_in_part_stands_upright(exif: bytes) -> None:
    Image.new("RGB", (20, 10), "red").save(file := BytesIO(), "JPEG", exif=exif)
    assert decode(file.getvalue(), MOST).size == (10, 20)


def test_damaged_exif_data_are_not_a_damaged_picture() -> None:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n  10\nnot hexadecimal")
    Image.new("RGB", (20, 10), "red").save(file := BytesIO(), "PNG", pnginfo=text)
    assert decode(file.getvalue(), MOST).size == (20, 10)


def test_sixteen_bits_of_grey_are_as_dark_as_eight() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = Image.fromarray(grey * np.uint16(257))
    assert decode(encoded(deep), MOST).tobytes() == Image.fromarray(grey).convert("RGB").tobytes()
    deep.save(file := BytesIO(), "PNG", transparency=0x0101)
    got = decode(file.getvalue(), MOST)
    assert [got.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (255, 255, 255), (2, 2, 2)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text, whatever its name says", "not a picture in one of the formats PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (picture(form="TIFF"), "not a picture"),
        (picture()[:-20], "broken or cut off"),
        (picture()[:1000], "broken or cut off"),
        (picture(form="JPEG")[:-100], "broken or cut off"),
        (picture(form="WEBP")[:-100], "broken or cut off"),
        (picture(form="GIF")[:-500], "broken or cut off"),
        (picture()[:200] + bytes(200) + picture()[400:], "broken or cut off"),
        (claims(50, 50), "broken or cut off"),
        (claims(101, 100), "101 x 100 pixels: at most 10000 are decoded"),
        (claims(40_000, 40_000), "pixels: at most 10000 are decoded"),
        (claims(5_000, 1), "one side is over 100 times the other"),
    ],
)
def test_bad_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data, MOST)


def test_a_wider_bound_than_the_librarys_is_kept() -> None:
    """Pillow has one of its own, of 178,956,970."""
    with pytest.raises(PictureError, match="20000 x 10000 pixels: at most 190000000 are decoded"):
        decode(claims(20_000, 10_000), 190_000_000)
    with pytest.raises(PictureError, match="broken or cut off"):
        decode(claims(20_000, 10_000), 210_000_000)


BOMB = """
from tercet.media.decode import decode
from tercet.media.errors import PictureError
from tests.unit.media.files import claims
bomb = claims(9_000, 9_000, 243_009_000)
most = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
before = most()
try:
    decode(bomb, %d)
except PictureError as error:
    print(error)
print(most() - before)
"""


def test_a_bomb_is_never_unpacked() -> None:
    """300 KB that unpack to 243 MB, which would show in the highest memory use of a process."""
    reason, kilobytes = run_python(BOMB % 36_000_000).splitlines()
    assert reason == "9000 x 9000 pixels: at most 36000000 are decoded"
    assert int(kilobytes) < 50_000
    assert int(run_python(BOMB % 90_000_000)) > 200_000, "it is a bomb"


def _scans(count: int) -> bytes:
    """Return a JPEG whose last scan is there so many times more."""
    Image.new("RGB", (64, 64)).save(file := BytesIO(), "JPEG", progressive=True)
    data = file.getvalue()
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * (count + 1) + data[-2:]


def _exif_pieces(count: int) -> bytes:
    """Return a JPEG with EXIF data in so many pieces."""
    data = picture(form="JPEG")
    return data[:2] + (b"\xff\xe1" + struct.pack(">H", 9) + b"Exif\0\0x") * count + data[2:]


def _runs(size: int) -> bytes:
    """Return a BMP of run lengths: a pixel a line, and the line's end."""
    body = b"\1\1\0\0" * size + b"\0\1"
    info = struct.pack("<IiiHHIIiiII", 40, size, size, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(body), 0, 0, 14 + 40 + 1024) + info + bytes(1024) + body


@pytest.mark.parametrize(
    ("data", "why"),
    [(_scans(250), "scans of 64 x 64"), (_exif_pieces(301), "300 pieces"), (_runs(8), "run-length encoded")],
)
def test_small_files_that_would_take_minutes_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(PictureError, match=why):
        decode(data, MOST)


def test_a_few_scans_and_pieces_are_no_trouble() -> None:
    assert decode(_scans(20), MOST).size == (64, 64)
    assert decode(_exif_pieces(3), MOST).size == (48, 32)


def test_exif_entries_that_lie_upon_each_other_take_no_more_than_they_are() -> None:
    entries, size = 500, 400_000
    listed = b"".join(struct.pack("<HHII", 1000 + i, 7, size, 14 + 12 * entries) for i in range(entries))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + listed + bytes(4 + size)
    Image.new("RGB", (8, 8)).save(file := BytesIO(), "PNG", exif=exif)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(action="ignore"):
            assert decode(file.getvalue(), MOST).size == (8, 8)
        assert tracemalloc.get_traced_memory()[1] < 20 * size
    finally:
        tracemalloc.stop()
