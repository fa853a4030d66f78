from spdkthread.thread import SpdkThread

class LoopState:
    @property
    def thread(self) -> SpdkThread: ...
