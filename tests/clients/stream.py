"""A stream of answers, as a scenario reads it."""

import grpc


class Stream:
    """An open call that answers more than once."""

    def __init__(self, call):
        self._call = call

    def next(self):
        return next(self._call)

    def ends(self):
        """The code and text it ends with."""
        try:
            while True:
                next(self._call)
        except grpc.RpcError as error:
            return error.code(), error.details()

    def close(self):
        self._call.cancel()
