"""Input images of every mode and format: all readers see the picture that a viewer shows."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from genscale.commands.score_files import read_pixels
from genscale.errors import UsageError
from genscale.report.read_image import read_frames, read_image, read_mask
from genscale.runs.call_arguments import input_images
from genscale.runs.request import Request
from genscale.verifiers.regions import Box

HIGH, WIDE = 12, 20
GREY = np.linspace(0, 255, HIGH * WIDE).reshape(HIGH, WIDE).round().astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
HOLE = np.zeros((HIGH, WIDE), bool)
HOLE[2:6, 3:12] = True
ALPHA = np.where(HOLE, 0, 255).astype(np.uint8)
ORIENTATION = 0x0112


def png(values, colour_type):
    """A 16-bit PNG, which Pillow cannot write. values: uint16 [h, w] or [h, w, channels]."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    high, wide = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", wide, high, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep(values):
    return values.astype(np.uint16) * 257


def palette_with_hole(path):
    image = Image.fromarray(np.where(HOLE, 7, 3).astype(np.uint8), "P")
    image.putpalette([0] * 9 + [200, 30, 90] + [0] * 9 + [1, 2, 3])
    image.save(path, transparency=7)


def turned(path, **more):
    """Stored on its side, with the EXIF orientation that turns it upright."""
    image = Image.fromarray(RGB).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(path, exif=exif, **more)


def animation(path, **more):
    first, second = Image.fromarray(RGB), Image.new("RGB", (WIDE, HIGH), "red")
    first.save(path, save_all=True, append_images=[second], **more)


def lab(path):
    srgb, kind = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(RGB // 4 + 96), srgb, kind, outputMode="LAB").save(path)


def layers(*parts):
    return np.concatenate([p if p.ndim == 3 else p[..., None] for p in parts], -1)


def grey_file(name, image):
    return (name, lambda path: image.save(path), np.stack([GREY] * 3, -1))


WHITE_HOLE = np.where(HOLE[..., None], 255, RGB)
GREY_HOLE = np.where(HOLE, 255, GREY)[..., None].repeat(3, -1)
CASES = {
    "8-bit RGB": ("a.png", lambda p: Image.fromarray(RGB).save(p), RGB),
    "16-bit grey PNG": ("a.png", lambda p: p.write_bytes(png(deep(GREY), 0)), GREY[..., None].repeat(3, -1)),
    "16-bit RGB PNG": ("a.png", lambda p: p.write_bytes(png(deep(RGB), 2)), RGB),
    "16-bit grey and alpha": ("a.png", lambda p: p.write_bytes(png(deep(layers(GREY, ALPHA)), 4)), GREY_HOLE),
    "16-bit RGBA": ("a.png", lambda p: p.write_bytes(png(deep(layers(RGB, ALPHA)), 6)), WHITE_HOLE),
    "16-bit grey TIFF": grey_file("a.tif", Image.fromarray(deep(GREY))),
    "big-endian 16-bit TIFF": grey_file(
        "a.tif", Image.frombytes("I;16B", (WIDE, HIGH), deep(GREY).astype(">u2").tobytes())
    ),
    "16-bit PGM": grey_file("a.pgm", Image.fromarray(deep(GREY))),
    "32-bit TIFF": grey_file("a.tif", Image.fromarray((GREY / 255 * (2**31 - 1)).astype(np.int32))),
    "float TIFF to 1": grey_file("a.tif", Image.fromarray((GREY / 255).astype(np.float32))),
    "float TIFF to 255": grey_file("a.tif", Image.fromarray(GREY.astype(np.float32))),
    "8-bit grey": grey_file("a.png", Image.fromarray(GREY)),
    "black and white": (
        "a.png",
        lambda p: Image.fromarray(ALPHA).convert("1").save(p),
        ALPHA[..., None].repeat(3, -1),
    ),
    "grey and alpha": ("a.png", lambda p: Image.fromarray(layers(GREY, ALPHA), "LA").save(p), GREY_HOLE),
    "RGBA": ("a.png", lambda p: Image.fromarray(layers(RGB, ALPHA)).save(p), WHITE_HOLE),
    "RGBA WebP": ("a.webp", lambda p: Image.fromarray(layers(RGB, ALPHA)).save(p, lossless=True), WHITE_HOLE),
    "half transparent": (
        "a.png",
        lambda p: Image.fromarray(layers(RGB, np.full_like(GREY, 128))).save(p),
        (RGB * (128 / 255) + 127).round(),
    ),
    "palette with a transparent entry": (
        "a.png",
        palette_with_hole,
        np.where(HOLE[..., None], 255, np.array([200, 30, 90])),
    ),
    "transparent grey value": (
        "a.png",
        lambda p: Image.fromarray(np.where(HOLE, 9, 80).astype(np.uint8)).save(p, transparency=9),
        np.where(HOLE, 255, 80)[..., None].repeat(3, -1),
    ),
    "CMYK": ("a.tif", lambda p: Image.fromarray(RGB).convert("CMYK").save(p), RGB),
    "CIELAB": ("a.tif", lab, RGB // 4 + 96),
    "EXIF orientation in JPEG": ("a.jpg", lambda p: turned(p, quality=100, subsampling=0), RGB),
    "EXIF orientation in PNG": ("a.png", turned, RGB),
    "animated PNG": ("a.png", animation, RGB),
    "animated WebP": ("a.webp", lambda p: animation(p, lossless=True), RGB),
    "TIFF of several pages": ("a.tif", animation, RGB),
    "stereo JPEG of a camera": ("a.mpo", lambda p: animation(p, quality=100, subsampling=0), RGB),
}


@pytest.mark.parametrize("case", CASES)
def test_every_mode_is_read_as_a_viewer_shows_it(case, tmp_path):
    name, write, expected = CASES[case]
    path = tmp_path / name
    write(path)
    tolerance = 3 if path.suffix in (".jpg", ".mpo") or case == "CIELAB" else 1

    def check(image):
        found = np.asarray(image, float)
        assert found.shape == (HIGH, WIDE, 3)
        assert np.abs(found - expected).max() <= tolerance

    given = Request(model="m", prompts=("a",), image=str(path), control_image=str(path))
    check(input_images(given)["image"])
    check(input_images(given)["control_image"])
    pixels = read_pixels(path)
    if not case.startswith("animated"):  # those are scored as videos
        check(pixels.movedim(0, -1) * 255)
    else:
        check(pixels[0].movedim(0, -1) * 255)
        assert pixels.shape[0] == 2


@pytest.mark.parametrize("kind", ["grey", "16-bit grey", "RGB", "transparent", "palette"])
def test_a_mask_is_white_where_it_selects(kind, tmp_path):
    path = tmp_path / "mask.png"
    mask = np.where(HOLE, 255, 0).astype(np.uint8)
    if kind == "16-bit grey":
        path.write_bytes(png(deep(mask), 0))
    elif kind == "transparent":  # a white shape on nothing, as drawing programs store it
        Image.fromarray(layers(np.full_like(RGB, 255), mask)).save(path)
    else:
        image = Image.fromarray(mask)
        (image.convert("P") if kind == "palette" else image.convert("RGB") if kind == "RGB" else image).save(
            path
        )
    Image.fromarray(RGB).save(tmp_path / "image.png")
    given = Request(
        model="m",
        prompts=("a",),
        image=str(tmp_path / "image.png"),
        mask_image=str(path),
        width=WIDE,
        height=HIGH,
    )
    for found in (read_mask(path, "it"), input_images(given)["mask_image"]):
        assert found.mode == "L"
        assert np.array_equal(np.asarray(found), mask)
    box = Box("a", mask=str(path))
    assert np.array_equal(box.cover.numpy() > 0.5, HOLE)


@pytest.mark.parametrize(
    "values",
    [np.array([[0, 300.0]]), np.array([[-1, 0.5]]), np.array([[0, np.nan]]), np.array([[0, np.inf]])],
)
def test_floats_of_an_unknown_range_are_refused(values, tmp_path):
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match=r"^--image cannot be read: its values reach from .* \[0, 1\] or"):
        read_image(tmp_path / "a.tif", "--image")


@pytest.mark.parametrize("end", [0, 8, 60, 0.5, 0.9])
@pytest.mark.parametrize("read", [read_image, read_mask, read_frames])
def test_a_damaged_file_is_one_sentence(end, read, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: end if isinstance(end, int) else int(end * len(data))])
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "a.png", "the picture")
    assert str(caught.value).startswith("the picture cannot be read: ")
    assert "\n" not in str(caught.value)
