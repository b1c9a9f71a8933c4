"""Images resized and converted; ImageMagick says what came out."""

from __future__ import annotations

import struct

import pytest
from PIL import Image, ImageFile

from gateway_transform.api import BadInput, BadOptions
from gateway_transform.converters import image as image_converter
from tests.transform.converting import convert, files, output_of, pdf_info, picture, png_header

GPS, MAKER, ORIENTATION = 0x8825, 0x010F, 0x0112
TURNED_RIGHT = 6


def photo(path, size=(600, 400)):
    """As a camera writes it that was held upright: the pixels lie on their side."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    exif[MAKER] = "Camera Works"
    return picture(path, size, exif=exif, dpi=(300, 300), quality=90)


def animation(path, frames=4):
    shown = [Image.new("RGBA", (40, 20), (60 * number, 0, 0, 255)) for number in range(frames)]
    durations = [100 * (number + 1) for number in range(frames)]
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=durations, loop=0)


def scans(path, pages=3):
    shown = [Image.new("1", (400, 600), number % 2) for number in range(pages)]
    shown[0].save(path, save_all=True, append_images=shown[1:], dpi=(200, 200))


def identified(path, template="%m %w %h"):
    """One line for each frame."""
    return [line.split() for line in output_of("identify", "-format", f"{template}\n", path).splitlines()]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": "200"}, ["200", "300"]),
        ({"height": 150}, ["100", "150"]),
        ({"width": "200", "height": "200"}, ["133", "200"]),
        ({"width": "800"}, ["800", "1200"]),
        ({"width": "800", "fit": "shrink"}, ["400", "600"]),
        ({"width": "100", "height": "100", "fit": "cover"}, ["100", "100"]),
        ({"width": "300", "height": "100", "fit": "stretch"}, ["300", "100"]),
    ],
)
def test_a_photo_is_upright_in_the_size_that_was_asked_for(tmp_path, options, size):
    photo(tmp_path / "a.JPG")
    assert convert("image_resize", tmp_path, **options) == ["INFO a.JPG -> a-resized.JPG"]
    assert identified(tmp_path / "a-resized.JPG") == [["JPEG", *size]]


def test_what_the_camera_wrote_is_left_behind(tmp_path):
    photo(tmp_path / "a.jpg")
    convert("image_resize", tmp_path, width="300")
    convert("image_convert", tmp_path, format="webp", files="a.jpg")
    for made in ("a-resized.jpg", "a.webp"):
        assert b"Camera Works" not in tmp_path.joinpath(made).read_bytes()
        assert identified(tmp_path / made, "%[EXIF:Orientation]") in ([], [[]])


def test_colour_profile_and_resolution_are_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(tmp_path / "a.jpg", icc_profile=profile, dpi=(300, 300))
    convert("image_convert", tmp_path, format="png")
    with Image.open(tmp_path / "a.png") as made:
        assert made.info["icc_profile"] == profile
        assert round(made.info["dpi"][0]) == 300


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "avif"])
def test_an_animation_stays_one(tmp_path, extension):
    animation(tmp_path / f"a.{extension}")
    convert("image_resize", tmp_path, width="20")
    with Image.open(tmp_path / f"a-resized.{extension}") as made:
        assert (made.size, made.n_frames) == ((20, 10), 4)
        durations = []
        for frame in range(4):
            made.seek(frame)
            made.load()
            durations.append(made.info["duration"])
    assert durations == [100, 200, 300, 400]


def test_an_animation_as_jpeg_is_its_first_picture(tmp_path):
    animation(tmp_path / "a.gif")
    convert("image_convert", tmp_path, format="jpg")
    assert identified(tmp_path / "a.jpg") == [["JPEG", "40", "20"]]


def test_pages_of_a_tiff_become_a_pdf(tmp_path):
    scans(tmp_path / "a.tif")
    convert("image_convert", tmp_path, format="pdf")
    info = pdf_info(tmp_path / "a.pdf")
    assert (info["Pages"], info["Page size"]) == ("3", "144 x 216 pts")


def test_pages_of_a_tiff_become_files_where_the_format_has_no_pages(tmp_path):
    scans(tmp_path / "a.tif")
    convert("image_convert", tmp_path, format="png")
    assert files(tmp_path) == {"a.tif", "a-1.png", "a-2.png", "a-3.png"}


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "avif", "gif", "bmp"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_every_format(tmp_path, mode, extension):
    gradient = Image.linear_gradient("L").resize((32, 16))
    if mode == "I;16":
        gradient = Image.frombytes(mode, (32, 16), struct.pack("<512H", *(256 * value for value in gradient.tobytes())))
    gradient.convert("RGB" if mode == "CMYK" else mode).convert(mode).save(tmp_path / "a.tif")
    convert("image_convert", tmp_path, format=extension)
    with Image.open(tmp_path / f"a.{extension}") as image:
        grey = image.point(lambda value: value / 256).convert("L") if image.mode == "I;16" else image.convert("L")
        assert image.size == (32, 16)
        assert grey.getpixel((0, 0)) < 20
        assert grey.getpixel((0, 15)) > 230


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_can_be_resized(tmp_path, mode):
    Image.new("RGB" if mode == "CMYK" else "L", (32, 16), "white").convert(mode).save(tmp_path / "a.tif")
    convert("image_resize", tmp_path, width="8")
    assert identified(tmp_path / "a-resized.tif", "%w %h") == [["8", "4"]]


def test_transparency_becomes_white_where_there_is_none(tmp_path):
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "a.png")
    convert("image_convert", tmp_path, format="jpg")
    with Image.open(tmp_path / "a.jpg") as made:
        assert made.getpixel((5, 5)) == (255, 255, 255)


def test_pictures_in_that_format_are_left_alone(tmp_path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.png")
    assert convert("image_convert", tmp_path, format="JPEG") == [
        "INFO a.jpg has that format already",
        "INFO b.png -> b.jpeg",
    ]
    assert files(tmp_path) == {"a.jpg", "b.png", "b.jpeg"}


def test_less_quality_takes_less_room(tmp_path):
    for quality in ("20", "95"):
        tmp_path.joinpath(quality).mkdir()
        picture(tmp_path / quality / "a.png", (300, 300))
        convert("image_convert", tmp_path / quality, format="jpg", quality=quality)
    assert tmp_path.joinpath("20/a.jpg").stat().st_size < tmp_path.joinpath("95/a.jpg").stat().st_size


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("image_resize", {}, "^width: a width, a height or both are needed"),
        ("image_resize", {"width": "0"}, "^width: '0' is no whole number from 1 to 30000"),
        ("image_resize", {"height": "30001"}, "^height: "),
        ("image_resize", {"width": "9", "fit": "crop"}, "^fit: 'crop' is none of inside, shrink, cover, stretch"),
        ("image_convert", {"format": "exe"}, "^format: 'exe' is none of png"),
        ("image_convert", {"quality": "101"}, "^quality: "),
    ],
)
def test_a_wrong_option_is_named(tmp_path, name, options, said):
    picture(tmp_path / "a.jpg")
    with pytest.raises(BadOptions, match=said):
        convert(name, tmp_path, **options)


def test_an_image_bomb_is_bad_input(tmp_path):
    tmp_path.joinpath("a.png").write_bytes(png_header(50_000, 50_000))
    with pytest.raises(BadInput, match=r"^a\.png: has more than 90000000 pixels$"):
        convert("image_resize", tmp_path, width="100")
    assert files(tmp_path) == {"a.png"}


def test_a_picture_is_not_blown_up_without_end(tmp_path):
    Image.new("L", (1, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"^a\.png: would have 10000 x 200000000 pixels"):
        convert("image_resize", tmp_path, width="10000")


def test_frames_of_one_file_are_held_within_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(image_converter, "MAX_PIXELS_HELD", 3 * 800)
    animation(tmp_path / "a.gif")
    with pytest.raises(BadInput, match=r"^a\.gif: its frames have more than 2400 pixels together"):
        convert("image_convert", tmp_path, format="webp")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6 9 9 255\n" + bytes(243)]
)
def test_other_formats_behind_a_known_name_are_bad_input(tmp_path, content):
    tmp_path.joinpath("a.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"^a\.png: is damaged, or no image of a known format$"):
        convert("image_convert", tmp_path, format="jpg")


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "webp", "tiff"])
def test_a_picture_cut_short_is_bad_input_even_after_weasyprint_was_loaded(tmp_path, monkeypatch, extension):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = picture(tmp_path / f"a.{extension}", (300, 200)).read_bytes()
    tmp_path.joinpath(f"a.{extension}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=rf"^a\.{extension}: is damaged"):
        convert("image_resize", tmp_path, width="100")
    assert files(tmp_path) == {f"a.{extension}"}


def test_no_picture_is_bad_input(tmp_path):
    tmp_path.joinpath("a.svg").write_text("<svg/>")
    with pytest.raises(BadInput, match=r"^no image here: the files looked for end in \.avif"):
        convert("image_resize", tmp_path, width="1")
