"""The application: answers in every format, several models, limits and hostile requests."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy_server import CLASSES, PALETTE, Brightness, brightness, changes, png_of, stripes

from segkernel import Predictor
from segkernel.errors import ExportError, UsageError
from segkernel.interfaces.model import PixelClasses, PixelMap
from segplug_deploy.outputs import PixelLabels
from segplug_deploy.serve.encode import FORMATS, coco_rle
from segplug_deploy.serve.models import ServedModel, split_names
from segplug_deploy.serve.openapi import ERRORS

IMAGE = png_of(stripes())
PREDICT = "/models/toy/predict"


def test_a_png_of_the_class_ids_is_returned_for_a_body_and_for_a_form(client) -> None:
    server = client()
    answers = [
        server.post(PREDICT, content=IMAGE),
        server.post(PREDICT, files={"image": ("../../etc/passwd", IMAGE, "text/html")}),
        server.post(PREDICT, files={"other": ("photo.png", IMAGE)}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        colors = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert (colors == np.array(PALETTE, np.uint8)[np.arange(9) // 3]).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_json_has_the_shares_of_the_classes(client, kind: str) -> None:
    answer = client().post(PREDICT, content=IMAGE, params={"format": kind}).json()
    assert (answer["model"], answer["height"], answer["width"]) == ("toy", 6, 9)
    assert [(each["name"], each["pixels"]) for each in answer["classes"]] == [(name, 18) for name in CLASSES]
    key = {"rle": "rle", "polygons": "geometry"}.get(kind)
    assert key is None or all(key in each for each in answer["classes"])


def test_several_models_answer_under_their_names_with_their_classes(client) -> None:
    class Inverted(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).flip(1)

    server = client({"toy": brightness(), "inverted": brightness("inverted", Inverted())})
    listed = server.get("/models").json()["models"]
    assert [model["name"] for model in listed] == ["toy", "inverted"]
    assert listed[0]["classes"][1] == {"id": 1, "name": "grey", "color": [90, 160, 90]}
    dark = png_of(np.zeros((4, 4, 3), np.uint8))
    for name, expected in (("toy", "dark"), ("inverted", "light")):
        answer = server.post(f"/models/{name}/predict?format=json", content=dark).json()
        assert [each["name"] for each in answer["classes"]] == [expected]


def test_a_model_that_compares_two_images_takes_a_form_with_both(client) -> None:
    model = changes()
    model.warm_up()
    server = client({"changes": model})
    assert server.get("/models").json()["models"][0]["images"] == 2
    after = stripes()
    after[:2] = 200
    path, image, second = "/models/changes/predict?format=json", ("a", png_of(stripes())), ("b", png_of(after))
    answer = server.post(path, files={"second": second, "image": image}).json()
    changed = np.abs(after.astype(int) - stripes()).mean(2) > 50
    assert {each["name"]: each["pixels"] for each in answer["classes"]}["changed"] == changed.sum()
    for given, text in (
        ({"content": png_of(after)}, "compares two images"),
        ({"files": {"image": image}}, "none is called 'second'"),
        ({"files": {"image": image, "second": ("b", png_of(stripes(7)))}}, "the first image is (6, 9)"),
        ({"files": {"image": image, "second": ("b", b"")}}, "the second image: the image is empty"),
    ):
        assert text in message_of(server.post(path, **given), 422)


def test_labels_are_those_of_the_predictor_also_in_batches(client) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, 4, 1)).double().float()
    model = brightness(model=network)
    predictor = Predictor(network, "", "cpu", CLASSES, preprocess={"mean": [0.0] * 3, "std": [1.0] * 3})
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (24, 32, 3)).astype(np.uint8) for _ in range(8)]
    server = client({"toy": model})
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda pixels: server.post(PREDICT, content=png_of(pixels)), images)]
    for pixels, answer in zip(images, answers):
        colors = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        wanted = predictor(pixels[..., ::-1].copy()).labels.numpy()
        assert (colors == np.array(PALETTE, np.uint8)[wanted]).mean() > 0.999  # a batch may round differently


def message_of(answer, status: int) -> str:
    """Return the message of an error, after checking its form."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["status"] == status
    return answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/models/tay/predict", 404, "did you mean 'toy'"),
        ("/models/..%2f..%2fetc%2fpasswd/predict", 404, "nothing is at this address"),
        ("/models/%00/predict", 404, "no model"),
        (f"/models/{'x' * 5000}/predict", 404, "no model"),
        (f"{PREDICT}?format=exe", 422, "available: png, json, rle, polygons"),
        ("/style.css/../../app.py", 404, "nothing is at this address"),
    ],
)
def test_wrong_addresses_are_refused_with_what_to_do(client, path: str, status: int, text: str) -> None:
    assert text in message_of(client().post(path, content=IMAGE), status)


def test_a_wrong_method_is_refused(client) -> None:
    assert "does not take GET" in message_of(client().get(PREDICT), 405)


FORMS = {
    "no file": ({"data": {"image": "photo.png"}}, "no files"),
    "two files": ({"files": {"a": ("a", b"1"), "b": ("b", b"2")}}, "2 files"),
    "no form": ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "form"),
    "no boundary": ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, "boundary"),
}


@pytest.mark.parametrize(("arguments", "text"), FORMS.values(), ids=FORMS)
def test_a_form_without_one_image_is_refused(client, arguments: dict, text: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"} if arguments.keys() == {"data"} else None
    if headers:
        body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nphoto.png\r\n--x--\r\n'
        arguments = {"content": body, "headers": headers}
    assert text in message_of(client().post(PREDICT, **arguments), 422)


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield bytes(1000)


def test_too_many_bytes_are_refused_whether_declared_or_not(client) -> None:
    server = client(megabytes=0.1)
    for content in (bytes(200_000), chunks(200_000)):
        assert "limit of 0.1 MB" in message_of(server.post(PREDICT, content=content), 413)
    assert server.post(PREDICT, content=IMAGE).status_code == 200


def test_too_many_pixels_are_refused(client) -> None:
    server = client(megapixels=0.001)
    assert "40 x 30 pixels" in message_of(server.post(PREDICT, content=png_of(np.zeros((30, 40, 3), np.uint8))), 413)


class Gated(Brightness):
    """Computes only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.started = threading.Event(), threading.Event()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.started.set()
        assert self.gate.wait(60)
        return super().forward(images)


def test_a_full_queue_is_refused_and_the_server_goes_on(client) -> None:
    gated = Gated()
    server = client({"toy": brightness(model=gated)}, queue=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.post, PREDICT, content=IMAGE)
        assert gated.started.wait(60)
        refused = server.post(PREDICT, content=IMAGE)
        gated.gate.set()
        assert first.result().status_code == 200
    assert "1 requests are in progress" in message_of(refused, 429)
    assert refused.headers["retry-after"] == "1"
    assert server.post(PREDICT, content=IMAGE).status_code == 200
    counted = server.get("/metrics").text
    for status, count in ((200, 2), (429, 1)):
        assert f'segkernel_requests_total{{model="toy",status="{status}"}} {count}\n' in counted


def test_a_late_answer_is_refused(client) -> None:
    gated = Gated()
    server = client({"toy": brightness(model=gated)}, seconds=0.1)
    assert "raise --timeout" in message_of(server.post(PREDICT, content=IMAGE), 503)
    gated.gate.set()
    assert server.get("/health").status_code == 200


def test_an_image_that_the_model_cannot_compute_is_refused_and_others_of_its_batch_are_not(client) -> None:
    class Picky(Gated):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            labels = super().forward(images)
            if (images == 200).any():
                raise RuntimeError("too bright")
            return labels

    picky = Picky()
    server = client({"toy": brightness(model=picky)})
    bad = png_of(np.full((6, 9, 3), 200, np.uint8))
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(server.post, PREDICT, content=IMAGE)
        assert picky.started.wait(60)
        others = [threads.submit(server.post, PREDICT, content=content) for content in (IMAGE, bad, IMAGE)]
        while waiting(server) < 3:
            time.sleep(0.01)
        picky.gate.set()
        answers = [each.result() for each in (first, *others)]
    assert "too bright" in message_of(answers.pop(2), 422)
    assert [answer.status_code for answer in answers] == [200, 200, 200]


def waiting(server) -> int:
    return int(re.search(r'queue_length{model="toy"} (\d+)', server.get("/metrics").text)[1])


def test_an_error_of_the_server_tells_strangers_nothing(client) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("/secret/path")

    server = client({"toy": brightness(model=Broken())})
    assert "secret" not in message_of(server.post(PREDICT, content=IMAGE), 500)
    assert server.get("/health").status_code == 200


def test_a_stopping_server_is_not_ready_and_refuses(client) -> None:
    server = client()
    assert server.get("/ready").json() == {"status": "ready"}
    server.app.state.service.stopping = True
    for answer in (server.get("/ready"), server.post(PREDICT, content=IMAGE)):
        assert "shutting down" in message_of(answer, 503)
    assert server.get("/health").json() == {"status": "ok"}


def test_another_host_name_is_refused_on_a_private_address(client) -> None:
    server = client(hosts=("localhost", "[::1]"))
    for host, status in {"localhost": 200, "LOCALHOST:8000": 200, "[::1]:80": 200, "evil.org": 421, "": 421}.items():
        assert server.get("/health", headers={"host": host}).status_code == status


def test_metrics_have_prometheus_format_and_no_labels_of_strangers(client) -> None:
    server = client()
    server.post(PREDICT, content=IMAGE)
    server.post("/models/unknown/predict", content=IMAGE)
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'[a-z_]+({([a-z]+="[^"]*",?)+})? [0-9.e+-]+|# (HELP|TYPE) [a-z_]+ .+')
    assert [text for text in answer.text.splitlines() if not line.fullmatch(text)] == []
    assert 'segkernel_requests_total{model="",status="404"} 1' in answer.text
    assert "unknown" not in answer.text
    assert 'segkernel_batch_size_bucket{model="toy",le="+Inf"} 1' in answer.text


def test_the_description_names_every_address_format_and_error(client) -> None:
    server = client(megabytes=7)
    document = server.get("/openapi.json").json()
    api = {route.path for route in server.app.routes} - {"/", "/style.css", "/app.js"}
    assert document["paths"].keys() == api
    post = document["paths"]["/models/{name}/predict"]["post"]
    assert post["parameters"][0]["schema"]["enum"] == ["toy"]
    assert post["parameters"][1]["schema"]["enum"] == ["png", *FORMATS]
    assert post["responses"].keys() == {"200", *map(str, ERRORS)}
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references == document["components"]["schemas"].keys()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["best.pt", "a/model.onnx"], ["best", "model"]),
        (["street=a.pt", "b=a.pt"], ["street", "b"]),
        (["runs/first/checkpoints/best_mIoU_iter_10.pt"], ["first"]),
        (["my photos.pt"], ["my-photos"]),
        (["segformer_mit-b0_8xb2-160k_ade20k-512x512"], ["segformer_mit-b0_8xb2-160k_ade20k-512x512"]),
    ],
)
def test_models_are_named_by_their_files_or_by_the_user(given: list[str], names: list[str]) -> None:
    assert [*split_names(given)] == names


@pytest.mark.parametrize(
    ("given", "text"),
    [(["a.pt", "b/a.pt"], "two models are called 'a'"), (["a/b=c.pt"], "'a/b' is no name"), (["a="], "after '='")],
)
def test_models_without_a_name_of_their_own_are_refused(given: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        split_names(given)


def test_a_file_that_exists_is_named_without_its_suffix_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "weeds.xml").touch()
    (tmp_path / "run-0.5x").mkdir()
    assert [*split_names([str(tmp_path / "weeds.xml"), str(tmp_path / "run-0.5x")])] == ["weeds", "run-0.5x"]


def test_a_model_that_returns_labels_is_served(client) -> None:
    class Whole(Brightness):
        outputs: ClassVar = {"seg": PixelLabels(3)}

        def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"seg": self(images).argmax(1).to(torch.uint8)}

    answer = client({"toy": brightness(model=Whole())}).post(f"{PREDICT}?format=json", content=IMAGE).json()
    assert [each["pixels"] for each in answer["classes"]] == [18, 18, 18]


def test_a_file_exported_for_one_size_is_served_with_a_warning(client, caplog) -> None:
    class Fixed(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[-2:] != (6, 9):
                raise ExportError("takes images of 6 x 9")
            return super().forward(images)

    model = brightness(model=Fixed())
    model.warm_up()
    assert "toy: an image of 512 x 512 fails: takes images of 6 x 9" in caplog.text
    server = client({"toy": model})
    assert server.post(PREDICT, content=IMAGE).status_code == 200
    assert "6 x 9" in message_of(server.post(PREDICT, content=png_of(stripes(7, 9))), 422)


def test_models_with_other_inputs_or_outputs_are_refused() -> None:
    network = nn.Conv2d(5, 3, 1)
    five = Predictor(network, "", "cpu", CLASSES, preprocess={"mean": [0.0] * 5, "std": [1.0] * 5})
    boxes = Brightness()
    boxes.outputs = {"seg": SimpleNamespace(classes=3)}
    for predictor, text in ((five, "of RGB images"), (Predictor(boxes, "", "cpu", CLASSES), "for each pixel")):
        with pytest.raises(UsageError, match=f"^m: .*{text}"):
            ServedModel("m", predictor)


def test_several_classes_of_a_pixel_are_masks_and_have_no_label_map(client) -> None:
    class Several(Brightness):
        outputs: ClassVar = {"seg": PixelClasses(3, 3, "sigmoid", 0.5, task="multilabel")}

        def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            light = images.mean(1, keepdim=True)
            return {"seg": torch.cat([light - 100, light - 200, -torch.ones_like(light)], 1)}

    server = client({"toy": brightness(model=Several())})
    assert server.get("/models").json()["models"][0]["task"] == "multilabel"
    assert "format=rle" in message_of(server.post(PREDICT, content=IMAGE), 422)
    found = server.post(f"{PREDICT}?format=rle", content=IMAGE).json()["classes"]
    assert [(each["name"], each["pixels"]) for each in found] == [("dark", 36), ("grey", 18)]
    assert found[0]["rle"] == coco_rle(np.arange(9)[None].repeat(6, 0) >= 3)
    assert found[0]["share"] == pytest.approx(2 / 3)


def test_values_are_thousandths_in_16_bits(client) -> None:
    @dataclass(frozen=True)
    class Depth(PixelMap):
        classes: ClassVar[int] = 0
        out_channels: int = 1
        align_corners: bool = False

        def decode(self, raw: torch.Tensor, activated: bool = False) -> torch.Tensor:
            return raw[0, 0]

    class Metres(Brightness):
        outputs: ClassVar = {"seg": Depth()}

        def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"seg": images.mean(1, keepdim=True) / 10}

    depth = Predictor(Metres(), "", "cpu", ["depth"], preprocess={"mean": [0.0] * 3, "std": [1.0] * 3})
    server = client({"toy": ServedModel("toy", depth)})
    png = np.frombuffer(server.post(PREDICT, content=IMAGE).content, np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_UNCHANGED)[0].tolist() == [0] * 3 + [12800] * 3 + [25500] * 3
    answer = server.post(f"{PREDICT}?format=json", content=IMAGE).json()
    assert (answer["min"], answer["max"], answer["width"]) == (0, 25.5, 9)
    assert "format=png" in message_of(server.post(f"{PREDICT}?format=polygons", content=IMAGE), 422)
    assert server.get("/models").json()["models"][0] == {"name": "toy", "task": "values", "images": 1, "classes": []}
