"""A running server: each view answers, mistakes are sentences, paths stay inside, two visitors at a time, an occupied port."""

import concurrent.futures
import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import PIL.Image
import pytest
import tiny_sd3

from pushforward.app.loaded import load_all
from pushforward.app.prompts import generated, prompts_side_by_side
from pushforward.app.serve import check_port
from pushforward.cli import main
from pushforward.errors import UserError

pytestmark = pytest.mark.slow
EACH = "each"


@pytest.fixture(scope="module")
def client(address):
    return pytest.importorskip("gradio_client").Client(address, verbose=False)


def test_samples_arrive_step_by_step(client):
    job = client.submit(6, 0, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0, api_name="/0_sample")
    path, progress = job.result(timeout=60)
    assert progress == "10 / 10 ✓"
    assert len(job.outputs()) == 12  # the noise, ten steps, the samples
    with PIL.Image.open(path if isinstance(path, str) else path["path"]) as image:
        assert image.format == "PNG"


def test_every_view_answers(client):
    test_a, test_b = client.predict(0, 1, api_name="/0_interpolate_test")
    from gradio_client import handle_file

    a, b = (handle_file(one if isinstance(one, str) else one["path"]) for one in (test_a, test_b))
    assert client.predict(a, b, 4, EACH, "spherical", False, api_name="/0_interpolate")
    assert "%" in client.predict(a, EACH, False, api_name="/0_likelihood")[0]
    assert "σ" in client.predict(6, 0, EACH, "Euler", 4, 1, api_name="/0_evaluations")[1]
    assert client.predict(EACH, api_name="/1_density")[1] == "100 %"
    assert client.predict(0, EACH, "own", 20, 1, api_name="/1_grid")[1].endswith("✓")
    rows, progress = client.predict(5, 0, "setosa", "Heun", 10, 1, 1, api_name="/2_table")
    assert progress.endswith("✓")
    assert {row[-1] for row in rows["data"]} == {"setosa"}
    gaps = {"headers": rows["headers"], "data": [[None, *row[1:]] for row in rows["data"]], "metadata": None}
    made = client.predict(gaps, api_name="/2_fill")
    assert all(row[0] is not None for row in made["data"])
    assert client.predict("digits", "Heun", 4, "meanflow", "Jumps", 1, 6, 0, EACH, api_name="/compare")[3] == "1 / 1 ✓"


WRONG = {
    "/0_sample": [
        (0, 0, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
        (9999, 0, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
        (6, -1, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
        (6, None, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
        (6, "seed", EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
        (6, 0, "seven", "Heun", 20, 1, 1, "state", 0, 0, 0),
        (6, 0, EACH, "Nonsense", 20, 1, 1, "state", 0, 0, 0),
        (6, 0, EACH, "Heun", 0, 1, 1, "state", 0, 0, 0),
        (6, 0, EACH, "Heun", 20, 99, 1, "state", 0, 0, 0),
        (6, 0, "none", "Heun", 20, 3, 1, "state", 0, 0, 0),
        (6, 0, EACH, "Heun", 20, 1, -1, "state", 0, 0, 0),
        (6, 0, EACH, "Heun", 20, 1, 1, "nonsense", 0, 0, 0),
        (6, 0, EACH, "Heun", 20, 1, 1, "state", 7, 0, 0),
        ("many", 0, EACH, "Heun", 20, 1, 1, "state", 0, 0, 0),
    ],
    "/0_interpolate": [(None, None, 4, EACH, "spherical", False), (None, None, 4, EACH, "cubic", False)],
    "/0_likelihood": [(None, EACH, False)],
    "/0_interpolate_test": [(0, 10**6), (None, 0)],
    "/compare": [("digits", "Heun", 4, "moons", "own", 1, 6, 0, EACH), ("nobody", "Heun", 4, "moons", "own", 1, 6, 0, EACH)],
    "/2_fill": [({"headers": ["nonsense"], "data": [["1"]], "metadata": None},), ({"headers": [], "data": [], "metadata": None},)],
}


@pytest.mark.parametrize(("name", "values"), [(name, one) for name, several in WRONG.items() for one in several])
def test_a_mistake_is_a_sentence_and_the_app_continues(name, values, client):
    with pytest.raises(Exception) as error:  # gradio_client raises AppError, or ValueError before it asks the server
        client.predict(*values, api_name=name)
    assert str(error.value)
    assert "Traceback" not in str(error.value)
    assert client.predict(2, 0, EACH, "Euler", 1, 1, 1, "state", 0, 0, 0, api_name="/0_sample")[1] == "1 / 1 ✓"


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_no_image_is_a_sentence(content, client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(Exception, match=r"(?i)image|file"):
        client.predict(handle_file(str(tmp_path / "image.png")), EACH, False, api_name="/0_likelihood")


def status(address, path):
    try:
        with urllib.request.urlopen(address + path) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_no_path_outside_can_be_read(address, runs):
    secret = runs / "digits" / "config.yaml"
    inside = os.path.relpath("/etc/passwd", runs)
    paths = [
        "/etc/passwd",
        str(secret),
        "digits/config.yaml",
        inside,
        "../" * 12 + "etc/passwd",
        "..%2f" * 12 + "etc/passwd",
        "%2fetc%2fpasswd",
    ]
    for path in [*paths, "file:///etc/passwd", "\\etc\\passwd", str(runs / "server.log"), "/proc/self/environ"]:
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/static/",
            "/assets/",
            "/theme.css/../../",
            "/gradio_api/proxy=",
        ):
            code, body = status(address, route + path)
            assert code in (400, 401, 403, 404, 405, 422) or b"<!doctype html>" in body[:200].lower(), (route, path, code, body[:100])
            assert b"root:" not in body
            assert b"preset:" not in body


def test_a_file_of_the_server_cannot_be_given_as_an_upload(client, runs):
    for path in ("/etc/passwd", str(runs / "digits" / "samples"), "/etc/hostname"):
        with pytest.raises(Exception) as error:
            client.predict({"path": path, "meta": {"_type": "gradio.FileData"}}, EACH, False, api_name="/0_likelihood")
        assert "root:" not in str(error.value)


def test_an_upload_that_is_too_large_is_refused(address):
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head + bytes(21 * 2**20) + b"\r\n--x--\r\n"
    connection.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
    assert connection.getresponse().status == 413


def test_two_visitors_get_what_each_of_them_alone_gets(address):
    gradio_client = pytest.importorskip("gradio_client")
    visitors = [gradio_client.Client(address, verbose=False) for _ in range(4)]

    def ask(k):
        path = visitors[k].predict(6, k % 2, EACH, "Heun", 30, 1, 1, "state", 0, 0, 0, api_name="/0_sample")[0]
        with PIL.Image.open(path if isinstance(path, str) else path["path"]) as image:
            return image.tobytes()

    alone = [ask(k) for k in range(2)]
    assert alone[0] != alone[1]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(4)))
    assert together == alone * 2


def test_it_listens_at_this_machine_only(address):
    port = int(address.rpartition(":")[2])
    own = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for host in own:
        with pytest.raises(OSError), socket.create_connection((host, port), timeout=1):
            pass


def test_an_occupied_port_is_a_sentence(address):
    with pytest.raises(UserError, match="where no server can listen"):
        check_port("127.0.0.1", int(address.rpartition(":")[2]))


def test_a_missing_gradio_is_a_sentence_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["app", "absent"]) == 2
    assert capsys.readouterr().err == "pushforward: the app needs the package gradio; run pip install 'pushforward[app]'.\n"


def test_sigterm_ends_it(runs):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    command = [sys.executable, "-m", "pushforward", "app", "moons", "--no-browser", "--port", port]
    with subprocess.Popen(command, cwd=runs, stdout=subprocess.PIPE, text=True) as process:
        assert "http" in process.stdout.readline()
        process.terminate()
        start = time.monotonic()
        assert process.wait(30) == 143
        assert time.monotonic() - start < 15


def test_a_prompt_has_a_preview_after_each_evaluation(tmp_path):
    (one,) = load_all([tiny_sd3.build(tmp_path, "medium").folder])
    previews = list(generated(one, "a red fox", steps=3, guidance=2, n=2, size=64))
    assert [(preview.step, preview.last) for preview in previews] == [(1, False), (2, False), (3, False), (3, True)]
    assert {image.size for image in previews[0].images} == {(8, 8)}
    assert [image.size for image in previews[-1].images] == [(64, 64)] * 2
    with pytest.raises(UserError, match="sides must be divisible by 16"):
        next(generated(one, "a red fox", size=17))
    with pytest.raises(UserError, match="the number of steps is 0"):
        next(generated(one, "a red fox", steps=0))


def test_two_models_of_images_of_texts_have_one_prompt_and_one_noise(tmp_path):
    """With equal sizes and weights both images are equal, whatever the number of steps of the first one's previews."""
    models = load_all([tiny_sd3.build(tmp_path / name, "medium").folder for name in "ab"])
    names = [one.name for one in models]
    assert names == ["a/folder", "b/folder"] or len(set(names)) == 2
    found = list(prompts_side_by_side(models, names[0], 2, names[1], 2, "a red fox", "", 2, 3))
    left, right = found[-1]
    assert (left.step, left.last, right.step, right.last) == (2, True, 2, True)
    assert left.images[0].tobytes() == right.images[0].tobytes()
    assert left.images[0].tobytes() == list(generated(models[0], "a red fox", steps=2, guidance=2, seed=3))[-1].images[0].tobytes()
    uneven = list(prompts_side_by_side(models, names[0], 1, names[1], 3, "a red fox", "", 2, 3))
    assert [(a.step, b.step) for a, b in uneven][-1] == (1, 3)
    for values, message in (
        (["c", 2, names[1], 2, "a", "", 2, 3], "'c' is not a known model"),
        ([names[0], 2, names[1], 0, "a", "", 2, 3], "the number of steps is 0"),
        ([names[0], 2, names[1], 2, "", "", 2, 3], "the prompt is empty"),
    ):
        with pytest.raises(UserError, match=message):
            next(prompts_side_by_side(models, *values))
