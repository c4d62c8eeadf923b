"""Files at URLs: which parts are read, what servers may do wrong, and that no message has a password."""

import asyncio
import json
import pickle
import socket
import sys
import threading
import traceback

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from aiohttp import web

from fvv_lib import far, read_video, servers
from fvv_lib.data.annotations import read_annotations
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.data.known import FILE, real_paths
from fvv_lib.data.splits import check_disjoint
from fvv_lib.data.table import Annotations
from fvv_lib.errors import DataFormatError, FvvError, VideoDecodeError
from fvv_lib.files import Url, join, locate, shown
from fvv_lib.scaling.feature_store import FeatureStore
from fvv_lib.settings import DataArguments
from fvv_lib.video.medium import Medium
from fvv_lib.video.read import count_frames, read_media, video_times
from fvv_lib.video_config import FrameSpec


class Server:
    """A web server on this machine with ranges, like those that store files. `content` holds the files by path."""

    def __init__(self):
        self.content, self.faults, self.requests, self.sent = {}, [], [], 0
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        assert self.started.wait(30)

    def _serve(self):
        asyncio.set_event_loop(self.loop)

        async def start():
            app = web.Application()
            app.router.add_route("*", "/{name:.*}", self.answer)
            self.runner = web.AppRunner(app, access_log=None)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]
            self.started.set()

        self.loop.run_until_complete(start())
        self.loop.run_forever()

    def close(self):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def put(self, name, content):
        self.content[name] = content
        return f"http://127.0.0.1:{self.port}/{name}"

    async def answer(self, request):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            return await self.send(request)
        finally:
            self.in_flight -= 1

    async def send(self, request):
        name = request.match_info["name"]
        self.requests.append((request.method, name, request.headers.get("Range")))
        fault = self.faults.pop(0) if self.faults and request.method == "GET" else None
        if callable(fault):
            fault = fault()
        if isinstance(fault, int):
            return web.Response(status=fault)
        if name not in self.content:
            return web.Response(status=404)
        whole = self.content[name]
        tag = f'"{hash(whole)}"'
        if request.headers.get("If-Match", tag) != tag:
            return web.Response(status=412)
        part, headers, status = whole, {"ETag": tag, "Accept-Ranges": "bytes"}, 200
        if "Range" in request.headers and fault != "no ranges":
            part, status = whole[request.http_range], 206
            start = request.http_range.start
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(whole)}"
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(part))})
        if fault == "cut":
            answer = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(part))})
            await answer.prepare(request)
            await answer.write(part[: len(part) // 2])
            request.transport.abort()
            return answer
        self.sent += len(part)
        return web.Response(status=status, body=part, headers=headers)


@pytest.fixture(scope="module")
def http():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    monkeypatch.setattr(servers, "DELAYS", (0.01, 0.01))
    if "http" in request.fixturenames:
        server = request.getfixturevalue("http")
        server.faults, server.requests, server.sent = [], [], 0
        server.delay, server.in_flight, server.most_in_flight = 0, 0, 0


SPEC = FrameSpec(image_size=64, tokens_per_frame=4, max_length=512, background=(0, 0, 0))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A video of 3 MB: 360 frames in 30 groups, of which nothing can be compressed."""
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, width=128, height=96)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "g": "12", "preset": "ultrafast"}
        rng = np.random.default_rng(0)
        for _ in range(360):
            frame = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def memory():
    """The file system `memory://`, empty."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def sample(**media):
    turns = [{"from": "human", "value": "<image> What is it?"}, {"from": "gpt", "value": "A ball."}]
    return {"id": "one", "conversations": turns, **media}


@pytest.mark.parametrize(
    ("path", "is_far"),
    [
        *[("s3://b/clip.mp4", True), ("HTTPS://h/clip.mp4", True), ("memory://a", True), ("hf://datasets/a/b/c", True)],
        *[("C://clips/a.mp4", False), ("C:\\clip.mp4", False), ("clip.mp4", False), ("a//b", False), ("://x", False)],
        *[("file:///tmp/a%20b.mp4", False), ("simplecache::https://h/a", False), ("data:video", False)],
    ],
)
def test_a_path_with_a_scheme_is_a_url(path, is_far):
    assert isinstance(locate(path), Url) == is_far
    assert str(locate("file:///tmp/a%20b.mp4")) == "/tmp/a b.mp4"


@pytest.mark.parametrize(
    ("address", "public", "identity"),
    [
        ("https://me:pass@h.org/a.mp4", "https://h.org/a.mp4", "https://h.org/a.mp4"),
        ("https://h/a.mp4?X-Amz-Signature=secret&v=2", "https://h/a.mp4?***", "https://h/a.mp4?v=2"),
        ("https://h/a.mp4?access_token=secret", "https://h/a.mp4?***", "https://h/a.mp4"),
        ("https://a.blob/c/a.mp4?sv=2&sig=secret&se=1", "https://a.blob/c/a.mp4?***", "https://a.blob/c/a.mp4"),
        ("s3://key:secret@bucket/a?b#c.mp4", "s3://bucket/a?b#c.mp4", "s3://bucket/a?b#c.mp4"),
        ("abfs://box@account/a.mp4", "abfs://box@account/a.mp4", "abfs://box@account/a.mp4"),
    ],
)
def test_a_url_is_shown_and_remembered_without_credentials(address, public, identity):
    url = Url(address)
    assert (str(url), repr(url), url.identity) == (public, f"Url({public!r})", identity)
    assert shown({"a": [address, 1], "b": address}) == {"a": [public, 1], "b": public}
    assert str(Medium(address, 1)) == f"{public} from 1 s"
    assert real_paths([address.encode()], [False]) == [identity.encode()]
    assert pickle.loads(pickle.dumps(url)).address == address


@pytest.mark.parametrize(
    ("folder", "path", "joined"),
    [
        ("https://h/a%20b", "c d/e.mp4", "https://h/a%20b/c%20d/e.mp4"),
        ("https://u:p@h/a/?token=x", "../e.mp4", "https://u:p@h/e.mp4"),
        ("s3://bucket", "e#1?.mp4", "s3://bucket/e#1?.mp4"),
        ("s3://bucket/a", "https://h/e.mp4", "https://h/e.mp4"),
        ("s3://bucket/a", "/data/e.mp4", "/data/e.mp4"),
        ("/data", "s3://bucket/e.mp4", "s3://bucket/e.mp4"),
        ("/data", "e.mp4", "/data/e.mp4"),
    ],
)
def test_a_path_is_joined_to_the_folder_that_it_is_relative_to(folder, path, joined):
    place = join(locate(folder), path)
    assert (place.address if isinstance(place, Url) else str(place)) == joined


def test_a_far_video_is_that_of_the_disk_and_little_of_it_is_read(http, noise):
    address, here = http.put("a b/noise.mp4".replace(" ", "%20"), noise.read_bytes()), read_video(noise, 2)
    http.content["a b/noise.mp4"] = http.content.pop("a%20b/noise.mp4")
    video = read_video(address, 2)
    assert np.array_equal(video.frames, here.frames)
    assert video.timestamps.tolist() == here.timestamps.tolist()
    ranges = [request for request in http.requests if request[0] == "GET"]
    assert video.bytes_read == http.sent < 0.25 * noise.stat().st_size
    assert video.requests == len(ranges) <= 6
    assert (here.bytes_read, here.requests) == (0, 0)
    assert not far._sources


def test_the_packets_of_a_group_are_one_request(http, noise, monkeypatch):
    monkeypatch.setattr(far, "BLOCK", 4096)
    video = read_video(http.put("noise.mp4", noise.read_bytes()), 8)
    assert np.array_equal(video.frames, read_video(noise, 8).frames)
    assert video.requests < 8 + 12  # most groups are more than 10 blocks


@pytest.mark.parametrize("kept", [2**26, 2**19], ids=["all is kept", "little is kept"])
def test_groups_are_requested_before_they_are_needed(http, noise, monkeypatch, kept):
    monkeypatch.setattr(far, "BLOCK", 4096)
    monkeypatch.setattr(far, "KEPT", kept)
    http.delay = 0.02
    video = read_video(http.put("noise.mp4", noise.read_bytes()), 30, num_threads=1)
    assert np.array_equal(video.frames, read_video(noise, 30).frames)
    assert 2 <= http.most_in_flight <= far.AT_ONCE + 1  # and the reader's own
    assert video.requests < 30 + 12  # none twice


def test_a_file_that_is_read_in_order_is_requested_before_it_is_needed(http):
    http.delay = 0.02
    content = np.random.default_rng(0).bytes(9_000_001)
    with far.hold(address := http.put("noise.bin", content)), Url(address).open(buffering=0) as file:
        heads = []
        for start in range(0, len(content), 100_000):  # short pieces, as of a list of packets
            file.seek(start)
            heads.append(file.read(12))
    assert heads == [content[start : start + 12] for start in range(0, len(content), 100_000)]
    assert http.most_in_flight >= 2
    assert len(http.requests) < 20
    assert http.sent == len(content)


def test_a_file_that_is_read_in_order_takes_few_requests_and_little_memory(http, monkeypatch):
    monkeypatch.setattr(far, "KEPT", 2**20)
    content = np.random.default_rng(0).bytes(5_000_001)
    address = http.put("noise.bin", content)
    with far.hold(address) as traffic, Url(address).open() as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == content
        (source,) = far._sources.values()
        assert sum(map(len, source.blocks.values())) <= 2**20
        file.seek(-10, 2)
        assert (file.read(), file.read(), file.tell()) == (content[-10:], b"", len(content))
    assert (traffic.bytes, traffic.requests) == (http.sent, 8)


def test_what_is_read_of_a_far_video_is_counted_in_another_process_too(http, noise):
    address = http.put("noise.mp4", noise.read_bytes())
    assert read_video(address, 2, timeout=60).bytes_read == http.sent > 0


def test_every_kind_of_medium_may_be_far(http, media):
    far = {name: http.put(name, (media / name).read_bytes()) for name in ("clip.mp4", "still.png", "short.mp4")}
    unnamed = http.put("clip?id=3", b"")
    http.content["clip"] = (media / "clip.mp4").read_bytes()
    here = read_video(media / "clip.mp4", 4)
    assert np.array_equal(read_media(unnamed, 4).frames, here.frames)  # by its content
    assert np.array_equal(
        read_media(Medium(far["clip.mp4"], 1, 2), 2).frames, read_video(media / "clip.mp4", 2, start=1, end=2).frames
    )
    assert np.array_equal(read_media(far["still.png"], 1).frames, read_media(media / "still.png", 1).frames)
    assert len(read_video([far["still.png"]] * 3, 3).frames) == 3
    assert (count_frames(far["clip.mp4"]), len(video_times(far["short.mp4"]))) == (24, 5)


def test_a_far_folder_of_frames_is_a_video(memory, media):
    for number in (2, 10, 1):
        memory.pipe(f"/frames/{number}.png", (media / "still.png").read_bytes())
    assert len(read_video("memory://frames", 3).frames) == count_frames("memory://frames") == 3


def test_a_far_playlist_opens_nothing(http, media, tmp_path):
    text = f"#EXTM3U\n#EXTINF:1,\n{http.put('clip.mp4', (media / 'clip.mp4').read_bytes())}\n"
    with pytest.raises(VideoDecodeError, match=r"list.mp4: it cannot be decoded as a video"):
        read_video(http.put("list.mp4", text.encode()), 2)
    assert {name for _, name, _ in http.requests} == {"list.mp4"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ([404], "no such file"),
        ([403], "answers 403.*Log in"),
        ([401], "answers 401.*Log in"),
        ([418], "answers 418"),
        (["no ranges"] * 9, "does not send parts of files.*Download the file"),
    ],
)
def test_an_error_of_a_server_names_the_file_and_the_remedy_without_credentials(http, noise, fault, message):
    http.put("noise.mp4", noise.read_bytes())
    address = f"http://me:hidden@127.0.0.1:{http.port}/noise.mp4?token=hidden"
    http.faults = list(fault)
    if isinstance(fault[0], int):
        http.content.clear()
        http.faults *= 2
    with pytest.raises(VideoDecodeError, match=message) as caught:
        read_video(address, 2)
    assert f"http://127.0.0.1:{http.port}/noise.mp4?***: " in str(caught.value)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert len(http.requests) < 8  # no attempt is repeated


@pytest.mark.parametrize("fault", [503, 429, "cut"])
def test_a_fault_that_passes_is_not_noticed(http, noise, fault):
    address = http.put("noise.mp4", noise.read_bytes())
    http.faults = [fault, fault, None, fault]
    assert np.array_equal(read_video(address, 2).frames, read_video(noise, 2).frames)
    assert not http.faults


@pytest.mark.parametrize("fault", [503, "cut"])
def test_a_fault_that_stays_is_no_fault_of_the_file(http, noise, fault):
    address = http.put("noise.mp4", noise.read_bytes())
    http.faults = [fault] * 99
    with pytest.raises(FvvError, match="2 more attempts") as caught:
        read_video(address, 2)
    assert type(caught.value) is FvvError
    assert 99 - len(http.faults) == 3


def test_a_server_that_is_not_there_is_no_fault_of_the_file():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens
        for path in ("clip.mp4", "clip", "still.png"):
            with pytest.raises(FvvError, match=f"{path}: no answer") as caught:
                read_media(f"http://127.0.0.1:{taken.getsockname()[1]}/{path}", 2)
            assert type(caught.value) is FvvError


def test_a_file_that_changes_while_it_is_read_is_an_error(http, noise):
    address = http.put("noise.mp4", noise.read_bytes())
    http.faults = [None, None, lambda: http.put("noise.mp4", noise.read_bytes()[:-1] + b"x") and None]
    with pytest.raises(VideoDecodeError, match=r"it changed while it was read. Start again"):
        read_video(address, 8)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https:/h/clip.mp4", "lost a slash"),
        ("/data/s3:/bucket/clip.mp4", "lost a slash"),
        ("nowhere://h/clip.mp4", "no such scheme: nowhere://"),
        ("memory://a/none.mp4", "no such file"),
        ("memory://a::memory://b.mp4", "joined by ::"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_clear_error(path, message):
    with pytest.raises(VideoDecodeError, match=message):
        read_video(path, 2)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(FvvError, match=r"gs://b/clip.mp4: a package is missing .*gcsfs") as caught:
        read_video("gs://b/clip.mp4", 2)
    assert type(caught.value) is FvvError


def test_decord_refuses_a_url():
    pytest.importorskip("decord")
    fsspec.filesystem("memory").pipe("/a.mp4", b"x")
    with pytest.raises(FvvError, match="decord reads only files of this machine"):
        read_video("memory://a.mp4", 2, backend="decord")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_an_annotation_file_may_be_far_and_its_paths_are_relative_to_its_folder(memory, tmp_path, suffix):
    rows = [
        sample(video="clips/a.mp4"),
        sample(image="https://h/b.png?token=hidden"),
        sample(video=str(tmp_path / "c.mp4")),
    ]
    texts = {"json": json.dumps(rows), "jsonl": "\n".join(map(json.dumps, rows))}
    if suffix == "parquet":
        aside = tmp_path / "data.parquet"
        pq.write_table(pa.Table.from_pylist([{"image": None, "video": None, **row} for row in rows]), aside)
        memory.pipe("/set/data.parquet", aside.read_bytes())
    else:
        memory.pipe(f"/set/data.{suffix}", texts[suffix].encode())
    samples = Annotations([f"memory://set/data.{suffix}"])
    assert [medium.source for i in range(3) for medium in samples.media(i)] == [
        Url("memory://set/clips/a.mp4"),
        Url("https://h/b.png?token=hidden"),
        tmp_path / "c.mp4",
    ]
    assert samples.files.paths.to_pylist()[:2] == [b"memory://set/clips/a.mp4", b"https://h/b.png?token=hidden"]
    assert samples.files.shown(1) == "https://h/b.png?***"


def test_an_annotation_file_that_cannot_be_read_is_one_clear_error(http):
    for path, message in (("data.json", "no such annotation file"), ("https:/h/data.json", "lost a slash")):
        address = path if ":" in path else f"http://127.0.0.1:{http.port}/{path}?token=hidden"
        with pytest.raises(DataFormatError, match=message) as caught:
            Annotations([address])
        assert "hidden" not in str(caught.value)


def test_an_annotation_file_is_read_once_and_as_it_is(http, tmp_path):
    text = json.dumps([sample(video="clip.mp4", note="x" * 300_000)])
    address = http.put("set/data.json", text.encode())
    assert len(Annotations([address], cache_dir=str(tmp_path))) == 1
    assert http.sent == len(text)
    changed = text.replace("xx", "yy", 1)
    http.put("set/data.json", changed.encode())
    http.faults = [None, lambda: http.put("set/data.json", text.encode()) and None]
    with pytest.raises(DataFormatError, match="it changed while it was read"):
        Annotations([address], cache_dir=str(tmp_path))
    http.faults = [503] * 9
    with pytest.raises(FvvError, match="the server answers 503"):
        list(read_annotations(address))


def make(tokenizer, annotate, samples, name="data.json", **settings):
    settings = {"num_video_frames": 2, "cache_dir": None, **settings}
    return LazySupervisedDataset(tokenizer, [annotate(samples, name)], DataArguments(**settings), frame_spec=SPEC)


def test_workers_that_are_forked_read_far_videos(http, noise, tokenizer, annotate):
    address = http.put("noise.mp4", noise.read_bytes())
    folder, media = f"http://127.0.0.1:{http.port}", noise.parent
    near = make(tokenizer, annotate, [sample(video="noise.mp4")] * 4, image_folder=str(media))
    away = make(tokenizer, annotate, [sample(video="noise.mp4")] * 4, image_folder=folder, decode_timeout=0)
    assert torch.equal(away[0]["images"], near[0]["images"])  # starts the threads of fsspec
    with far.hold(address), Url(address).open() as file:
        file.read(10)  # an open connection, which is that of this process
        loader = torch.utils.data.DataLoader(away, num_workers=2, batch_size=None, multiprocessing_context="fork")
        assert all(torch.equal(batch["images"], near[0]["images"]) for batch in loader)


def test_a_far_file_is_checked_again_only_after_it_has_changed(http, media, tokenizer, annotate, tmp_path):
    address = http.put("clip.mp4", (media / "clip.mp4").read_bytes())
    known = []
    for query in ("", "?X-Amz-Signature=hidden", "new"):
        if query == "new":
            http.put("clip.mp4", (media / "short.mp4").read_bytes())
        data = make(
            tokenizer, annotate, [sample(video=address + query.replace("new", ""))], cache_dir=str(tmp_path / "cache")
        )
        assert list(data.check_media()) == [(0, None)]
        known.append(data.media_counts["known"])
    assert known == [0, 1, 0]
    assert not [
        path for path in (tmp_path / "cache" / "media").rglob("*") if path.is_file() and b"hidden" in path.read_bytes()
    ]


def test_missing_and_refused_far_files_are_errors_of_their_samples(http, tokenizer, annotate):
    address = f"http://127.0.0.1:{http.port}/none.mp4?token=hidden"
    with pytest.raises(VideoDecodeError, match=r"none.mp4\?\*\*\*: no such file. Check the path") as caught:
        make(tokenizer, annotate, [sample(video=address)])
    assert "hidden" not in str(caught.value)


def test_one_far_file_under_two_signatures_is_one_clip(http, media, tokenizer, annotate):
    address = http.put("clip.mp4", (media / "clip.mp4").read_bytes())
    train = make(tokenizer, annotate, [sample(video=f"{address}?X-Amz-Signature=hidden")], "train.json")
    test = make(tokenizer, annotate, [sample(video=address)], "test.json")
    with pytest.raises(DataFormatError, match=r"clip.mp4") as caught:
        check_disjoint(train, test)
    assert "hidden" not in str(caught.value)


def test_features_of_a_far_video_are_named_by_what_the_server_says(http, media, tmp_path):
    store = FeatureStore(tmp_path, {"video": "v", "picture": "p"})
    address = http.put("clip.mp4", (media / "clip.mp4").read_bytes())
    name = store.name(Medium(Url(address)))
    assert name == store.name(Medium(f"{address}?X-Amz-Signature=hidden"))
    assert {method for method, _, _ in http.requests} == {"HEAD"}
    http.put("clip.mp4", (media / "short.mp4").read_bytes())
    assert store.name(Medium(Url(address))) != name


@pytest.fixture(scope="module")
def s3():
    """A bucket `clips` on a real S3 server on this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    conf = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", conf)
        system = fsspec.filesystem("s3")
        system.mkdir("clips")
        yield system
    server.stop()


def test_a_bucket_is_read_like_a_disk(s3, noise, media):
    s3.pipe("clips/noise.mp4", noise.read_bytes())
    video = read_video("s3://clips/noise.mp4", 2)
    assert np.array_equal(video.frames, read_video(noise, 2).frames)
    assert video.bytes_read < 0.25 * noise.stat().st_size
    for number in range(3):
        s3.pipe(f"clips/frames/{number}.png", (media / "still.png").read_bytes())
    assert count_frames("s3://clips/frames") == 3
    with pytest.raises(VideoDecodeError, match=r"s3://clips/none.mp4: it cannot be read .no such file"):
        read_video("s3://clips/none.mp4", 2)
    s3.pipe("clips/data.json", json.dumps([sample(video="noise.mp4")]).encode())
    assert Annotations(["s3://clips/data.json"]).files.looks.kinds.tolist() == [FILE]


def test_an_object_that_changes_while_it_is_read_is_an_error(s3, noise):
    s3.pipe("clips/noise.mp4", noise.read_bytes())

    def read_both():
        with far.hold("s3://clips/noise.mp4"), Url("s3://clips/noise.mp4").open(buffering=0) as file:
            assert file.read(10) == noise.read_bytes()[:10]
            s3.pipe("clips/noise.mp4", noise.read_bytes()[:-1] + b"x")
            file.seek(2_000_000)
            file.read(10)

    with pytest.raises(OSError, match="it changed while it was read"):
        read_both()
