"""The page in a headless Chromium: images in, overlays out, by mouse, keyboard and camera."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from browser import Browser, find_chromium
from torch import Tensor, nn
from toy_server import CLASSES, PALETTE, Brightness, brightness, changes, png_of, running, stripes

from segkernel import Predictor
from segplug_deploy.serve.models import ServedModel

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs an installed Chromium")

HEIGHT, WIDTH = 60, 90
THIRDS = np.arange(WIDTH) // 30


class Levels(nn.Module):
    """Class i where the brightness is 8 i."""

    def forward(self, images: Tensor) -> Tensor:
        return -(images.mean(1, keepdim=True) - 8 * torch.arange(32).view(1, 32, 1, 1)).abs()


class Darker(Brightness):
    """Takes the middle stripe for dark."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + torch.tensor([60.0, 0, 0]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running({"toy": brightness(), "darker": brightness("darker", Darker())}, megabytes=1) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    """The page as it is when it is opened."""
    browser.events.clear()
    browser.open(address)
    browser.wait("document.querySelector('#first').options.length === 2")
    return browser


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of three stripes."""
    file = tmp_path / "stripes.png"
    file.write_bytes(png_of(stripes(HEIGHT, WIDTH)))
    return file


@pytest.fixture
def shown(page: Browser, photo: Path) -> Browser:
    """The page with the image, dropped into it."""
    page.drop(photo)
    page.wait("document.querySelector('#status').textContent.includes('labelled in')")
    return page


def pixels(page: Browser, panel: int = 0) -> np.ndarray:
    """Return the overlay of a panel, (H, W, 4)."""
    canvas = f"document.querySelectorAll('.overlay')[{panel}]"
    values = page.run(f"[...{canvas}.getContext('2d').getImageData(0, 0, {WIDTH}, {HEIGHT}).data]")
    return np.array(values, np.uint8).reshape(HEIGHT, WIDTH, 4)


def texts(page: Browser, selector: str) -> list[str]:
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.innerText)")


def choose_file(page: Browser, selector: str, file: Path) -> None:
    """Choose a file in a dialogue."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def legend(page: Browser) -> list[str]:
    return [text.replace("\n", " ") for text in texts(page, ".legend button")]


def test_a_dropped_image_gets_an_exact_overlay_and_a_legend_with_shares(shown: Browser) -> None:
    overlay = pixels(shown)
    assert (overlay[..., :3] == np.array(PALETTE, np.uint8)[THIRDS]).all()
    assert (overlay[..., 3] == 255).all()
    assert legend(shown) == [f"{name} 33.3 %" for name in CLASSES]
    assert "stripes.png, 90 × 60 pixels" in texts(shown, "#status")[0]
    assert shown.run("document.querySelector('.overlay').style.opacity") == "0.6"


def test_a_class_is_shown_alone_until_escape(shown: Browser) -> None:
    shown.click(".legend button[data-name=grey]")
    assert (pixels(shown)[..., 3] == 255 * (THIRDS == 1)).all()
    pressed = "[...document.querySelectorAll('.legend button')].map((each) => each.ariaPressed)"
    assert shown.run(pressed) == ["false", "true", "false"]
    shown.key("Escape")
    assert (pixels(shown)[..., 3] == 255).all()
    shown.click(".overlay")  # its middle
    assert (pixels(shown)[..., 3] == 255 * (THIRDS == 1)).all()


def test_a_legend_of_many_classes_scrolls_and_can_be_searched(browser: Browser, tmp_path: Path) -> None:
    names = [f"level {number}" for number in range(32)]
    model = Predictor(Levels(), "", "cpu", names, preprocess={"mean": [0.0] * 3, "std": [1.0] * 3})
    (tmp_path / "levels.png").write_bytes(
        png_of(np.arange(256, dtype=np.uint8)[None, :, None].repeat(96, 0).repeat(3, 2))
    )
    with running({"levels": ServedModel("levels", model)}) as (host, port):
        browser.open(f"http://{host}:{port}/")
        browser.wait("document.querySelector('#first').options.length === 1")
        browser.drop(tmp_path / "levels.png")
        browser.wait("document.querySelectorAll('.legend button').length === 32")
        assert browser.run(
            "(({scrollHeight, clientHeight}) => scrollHeight > clientHeight)(document.querySelector('.legend'))"
        )
        assert browser.run("document.querySelector('.labels').getBoundingClientRect().bottom <= innerHeight")
        browser.run(
            "const field = document.querySelector('.search'); field.value = ' LEVEL 3'; "
            "field.dispatchEvent(new Event('input'))"
        )
        assert browser.run(
            "[...document.querySelectorAll('.legend li')].filter((e) => !e.hidden).map((e) => "
            "e.firstChild.dataset.name).sort()"
        ) == ["level 3", "level 30", "level 31"]


def test_the_mouse_names_the_class_of_a_pixel(shown: Browser) -> None:
    x, y = shown.middle(".overlay")
    shown.mouse(x, y)
    assert texts(shown, ".point") == ["grey at (45, 30)"]
    assert texts(shown, ".mark span") == ["grey"]
    shown.mouse(5, 5)
    assert texts(shown, ".point") == [""]


def test_the_opacity_is_that_of_the_slider(shown: Browser) -> None:
    slider = "document.querySelector('#opacity')"
    shown.run(f"{slider}.value = 25, {slider}.dispatchEvent(new Event('input')), 0")
    assert shown.run("document.querySelector('.overlay').style.opacity") == "0.25"
    assert texts(shown, "#percent") == ["25 %"]


def choose(page: Browser, selector: str, value: str) -> None:
    select = f"document.querySelector('{selector}')"
    page.run(f"{select}.value = '{value}', {select}.dispatchEvent(new Event('change')), 0")


def test_two_models_stand_side_by_side(shown: Browser) -> None:
    choose(shown, "#second", "darker")
    shown.wait("document.querySelectorAll('.panel').length === 2")
    assert texts(shown, ".panel h2") == ["toy", "darker"]
    assert (pixels(shown, 1)[..., :3] == np.array(PALETTE, np.uint8)[np.array([0, 0, 2])[THIRDS]]).all()
    assert "agree on 66.7 %" in texts(shown, "#status")[0]
    assert "1 of 3 classes do not occur." in texts(shown, ".absent")[1]
    left, right = (
        shown.run(f"document.querySelectorAll('.panel')[{index}].getBoundingClientRect().x") for index in (0, 1)
    )
    assert left + 300 < right
    shown.mouse(*shown.middle(".overlay"))
    assert texts(shown, ".point") == ["grey at (45, 30)", "dark at (45, 30)"]
    shown.click(".legend button[data-name=light]")
    for panel in (0, 1):
        assert (pixels(shown, panel)[..., 3] == 255 * (THIRDS == 2)).all()


def test_a_model_that_compares_two_images_asks_for_the_second(browser: Browser, tmp_path: Path) -> None:
    before, after = stripes(HEIGHT, WIDTH), stripes(HEIGHT, WIDTH)
    after[:20] = 200
    for name, image in (("before.png", before), ("after.png", after)):
        (tmp_path / name).write_bytes(png_of(image))
    with running({"changes": changes()}) as (host, port):
        browser.open(f"http://{host}:{port}/")
        browser.wait("!document.querySelector('#other').hidden")
        browser.drop(tmp_path / "before.png")
        browser.wait("document.querySelector('#status').textContent.includes('choose the second one')")
        choose_file(browser, "#pair", tmp_path / "after.png")
        browser.wait("document.querySelector('#status').textContent.includes('before.png and after.png')")
        changed = np.abs(after.astype(int) - before).mean(2) > 50
        assert (pixels(browser)[..., 0] == np.where(changed, 250, 0)).all()


def test_everything_can_be_done_with_the_keyboard(shown: Browser) -> None:
    reached = []
    for _ in range(20):
        shown.key("Tab")
        reached.append(
            shown.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.innerText"
            )
        )
        if reached[-1] == "overlay":
            break
    assert [name for name in reached if name in ("file", "camera", "first", "second", "opacity")] == [
        "file", "camera", "first", "second", "opacity"]  # fmt: skip
    for key in ("ArrowRight", *["ArrowLeft"] * 12):
        shown.key(key)
    assert texts(shown, ".point") == ["dark at (23, 30)"]
    assert shown.run("document.querySelector('.point').ariaLive") == "polite"
    assert not shown.run("document.querySelector('.mark.dot').hidden")
    shown.key("Enter")
    assert (pixels(shown)[..., 3] == 255 * (THIRDS == 0)).all()
    shown.key("Tab")
    shown.key("Enter")  # the first entry of the legend, which is the same class
    assert (pixels(shown)[..., 3] == 255).all()


def test_a_file_can_be_chosen_and_pasted(page: Browser, photo: Path) -> None:
    choose_file(page, "#file", photo)
    page.wait("document.querySelector('#status').textContent.includes('stripes.png')")
    bright = [*png_of(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))]
    page.run(
        f"""(() => {{
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array({bright})], "clip.png", {{ type: "image/png" }}));
            document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData }}));
        }})()"""
    )
    page.wait("document.querySelector('#status').textContent.includes('clip.png')")
    assert legend(page) == ["light 100.0 %"]


def test_the_camera_is_labelled_until_it_is_stopped(page: Browser) -> None:
    page.click("#camera")
    page.wait("document.querySelector('#status').textContent.includes('camera.jpg')")
    assert page.run("document.querySelector('#camera').ariaPressed") == "true"
    page.click("#camera")
    assert page.run("document.querySelector('#camera').ariaPressed") == "false"
    assert page.run("document.querySelector('.overlay').width") >= 320


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "notes.txt": (lambda: b"hello", "not a PNG, JPEG, WebP, BMP or TIFF image"),
    "cut.png": (lambda: png_of(stripes(HEIGHT, WIDTH))[:100], "cut short"),
    "large.png": (lambda: bytes(1_200_000), "limit of 1 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_server_refuses_is_said_and_the_last_image_stays(shown: Browser, tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    shown.drop(tmp_path / name)
    shown.wait("document.querySelector('#error').textContent")
    assert message in texts(shown, "#error")[0]
    assert legend(shown) == [f"{name} 33.3 %" for name in CLASSES]
    assert shown.run("document.querySelector('.panel').ariaBusy") == "false"


def test_labels_and_overlay_can_be_downloaded(shown: Browser, photo: Path, address: str) -> None:
    for selector in (".labels", ".composite"):
        shown.click(selector)
    files = [shown.downloads / f"stripes_toy_{what}.png" for what in ("labels", "overlay")]
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, [*shown.downloads.iterdir()]
        time.sleep(0.02)
    answer = httpx.post(f"{address}models/toy/predict", content=photo.read_bytes(), timeout=60)
    assert files[0].read_bytes() == answer.content


def test_the_page_asks_no_other_host_and_breaks_no_rule_of_its_own(shown: Browser, address: str) -> None:
    shown.run("0")
    asked = [each["params"]["request"]["url"] for each in shown.events if each["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    problems = [each for each in shown.events if each["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert problems == []


INTERACTIVE = ("button", "combobox", "slider", "link", "application", "textbox", "image")


def test_a_screen_reader_finds_a_name_for_everything(shown: Browser) -> None:
    nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    }
    assert [each for each in named if each[0].lower() in INTERACTIVE and not each[1].strip()] == []
    roles = {role for role, _ in named}
    assert {"main", "status", "group", "application", "list"} <= roles
    (label,) = [name for role, name in named if role == "application"]
    assert label.startswith("Labels of toy: dark 33.3 %")


CONTRASTS = """[...document.querySelectorAll('body *')].filter((each) => each.checkVisibility()
    && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((each) => {
  let ground = each;
  while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  return [each.innerText, getComputedStyle(each).color, getComputedStyle(ground).backgroundColor];
})"""


def luminance(color: str) -> float:
    """Return the relative luminance of ``rgb(...)``, as WCAG defines it."""
    values = [int(value) / 255 for value in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(shown: Browser, scheme: str) -> None:
    shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    shown.click(".legend button")
    weak: list[Any] = []
    for text, front, back in shown.run(CONTRASTS):
        low, high = sorted([luminance(front), luminance(back)])
        weak += [(text, front, back)] if (high + 0.05) / (low + 0.05) < 4.5 else []
    assert weak == []
    dark = luminance(shown.run("getComputedStyle(document.body).backgroundColor")) < 0.2
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 390, 800])
def test_nothing_is_cut_off_on_narrow_screens(shown: Browser, width: int) -> None:
    shown.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    assert shown.run("document.scrollingElement.scrollWidth") <= width
    rights = shown.run(
        "[...document.querySelectorAll('button, select, canvas')].map((e) => e.getBoundingClientRect().right)"
    )
    assert max(rights) <= width
    heights = shown.run("[...document.querySelectorAll('button, select')].map((e) => e.getBoundingClientRect().height)")
    assert min(heights) >= 32  # for fingers
    shown.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
