"""What the benchmarks measure with: the processor's seconds, and the most memory in use."""

import resource
import threading
import time
from pathlib import Path


def seconds(run) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


class Peak:
    """The most memory in use, in megabytes above that at the start, sampled every 2 ms (Linux)."""

    def __enter__(self):
        self.start, self.most, self.done = self.now(), 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, self.now() - self.start)

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    @staticmethod
    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
