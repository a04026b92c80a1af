"""`till.participant.v1` in Python: a point for every cent of a paid order.

    python -m loyalty.service --listen 127.0.0.1:7400 --coordinator 127.0.0.1:7000 --data points.db

It is never a primary: it joins checkouts whose primary is the order."""

import argparse
import concurrent.futures
import logging
import signal
import threading

import google.protobuf.message
import grpc

from loyalty import book as books
from loyalty import stubs

NAME = "loyalty"
SHARDS = 4
# Seconds between two looks at unresolved votes.
SWEEP_SECONDS = 0.5
# Number of looks after which final transactions past their deadline are removed.
FORGET_EVERY = 20

messages, services = stubs.load()
types, participant, coordinator = messages["types"], messages["participant"], messages["coordinator"]

log = logging.getLogger(NAME)


class Refused(Exception):
    """The call itself is wrong."""


class Loyalty(services["participant"].ParticipantServiceServicer):
    """One method for each operation on the book, and the wire around them."""

    def __init__(self, book):
        self._book = book

    # Operations, inside of one change of the book.

    def _prepare(self, request):
        tx = request.tx
        state, vote = self._book.get(tx.tx_id)
        if state != books.ABSENT:
            # The first answer again; FENCED where there was none.
            return participant.PrepareResponse(vote=_vote(vote))
        if self._book.now_ms() >= tx.deadline_ms:
            return participant.PrepareResponse(vote=_vote(None))
        try:
            order = coordinator.CheckoutPayload.FromString(request.payload)
        except google.protobuf.message.DecodeError as error:
            raise Refused("payload is no CheckoutPayload") from error
        if not order.user_id:
            raise Refused("payload.user_id is missing")
        if self._book.is_blocked(order.user_id):
            no = participant.Vote.No(reason="LOYALTY_BLOCKED", metadata={"user_id": order.user_id})
            vote = participant.Vote(no=no)
            self._book.fenced(tx, vote.SerializeToString())
        else:
            receipt = f"{order.user_id}+{order.total_cost}".encode()
            vote = participant.Vote(yes=participant.Vote.Yes(receipt=receipt))
            self._book.prepared(tx, vote.SerializeToString(), order.user_id, order.total_cost)
        return participant.PrepareResponse(vote=vote)

    def _commit(self, request):
        state, _ = self._book.get(request.tx.tx_id)
        if state == books.PREPARED:
            self._book.committed(request.tx.tx_id)
        # An unknown transaction was committed and forgotten, because no Commit is sent before all voted YES.
        return participant.CommitResponse(
            state=books.ABORTED if state == books.ABORTED else books.COMMITTED
        )

    def _abort(self, request):
        state, _ = self._book.get(request.tx.tx_id)
        if state == books.ABSENT:
            self._book.fenced(request.tx)
        elif state == books.PREPARED:
            self._book.aborted(request.tx.tx_id)
        return participant.AbortResponse(
            state=books.COMMITTED if state == books.COMMITTED else books.ABORTED
        )

    def _query(self, request):
        state, vote = self._book.get(request.tx.tx_id)
        if state == books.ABSENT and request.fence:
            self._book.fenced(request.tx)
            state = books.ABORTED
        response = participant.QueryResponse(state=state)
        if vote is not None:
            response.vote.ParseFromString(vote)
        return response

    def _forget(self, request):
        # Forget is sent to a primary only.
        return participant.ForgetResponse()

    def _nowhere(self, kind):
        """The answer of a shard that does not exist. It never votes YES, so nothing waits for it for ever."""
        if kind == "prepare":
            vote = participant.Vote(no=participant.Vote.No(reason="WRONG_SHARD"))
            return participant.PrepareResponse(vote=vote)
        if kind in ("query", "abort"):
            response = participant.QueryResponse if kind == "query" else participant.AbortResponse
            return response(state=books.ABORTED)
        raise Refused("branch.shard does not exist")

    def _handle(self, kind, request):
        _check(request)
        if request.branch.shard >= SHARDS:
            return self._nowhere(kind)
        return getattr(self, f"_{kind}")(request)

    def _one(self, operation):
        kind = operation.WhichOneof("operation")
        result = participant.OperationResult()
        try:
            if kind is None:
                raise Refused("operation is missing")
            if not hasattr(self, f"_{kind}"):
                # A read, or an operation of a later release. The coordinator works without them.
                result.error.code = grpc.StatusCode.UNIMPLEMENTED.value[0]
                return result
            getattr(result, kind).CopyFrom(self._handle(kind, getattr(operation, kind)))
        except Refused as refused:
            result.error.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            result.error.message = str(refused)
        return result

    # The wire.

    def Describe(self, request, context):
        return participant.DescribeResponse(service=NAME, shards=SHARDS)

    def Apply(self, request, context):
        # One change of the book, one synchronisation of the disk, for all of them.
        with self._book.changes():
            results = [self._one(operation) for operation in request.operations]
        return participant.ApplyResponse(results=results)

    def _alone(self, kind, request, context):
        try:
            with self._book.changes():
                return self._handle(kind, request)
        except Refused as refused:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refused))

    def Prepare(self, request, context):
        return self._alone("prepare", request, context)

    def Commit(self, request, context):
        return self._alone("commit", request, context)

    def Abort(self, request, context):
        return self._alone("abort", request, context)

    def Query(self, request, context):
        return self._alone("query", request, context)

    def Forget(self, request, context):
        return self._alone("forget", request, context)


def _check(request):
    """Refuses a call that is not for us. Forget carries only the id."""
    tx_id = request.tx.tx_id if hasattr(request, "tx") else request.tx_id
    if len(tx_id) != 16:
        raise Refused("tx_id must be 16 bytes")
    if request.branch.service != NAME:
        raise Refused("branch.service names another service")
    if hasattr(request, "tx") and request.branch not in request.tx.branches:
        raise Refused("branch is not one of tx.branches")


def _vote(stored):
    if stored is None:
        return participant.Vote(fenced=participant.Vote.Fenced())
    return participant.Vote.FromString(stored)


def sweep(book, address, stopped):
    """Asks any coordinator about votes past their deadline. The coordinator then resolves them."""
    channel = grpc.insecure_channel(address)
    resolver = services["coordinator"].CoordinatorServiceStub(channel)
    look = 0
    while not stopped.wait(SWEEP_SECONDS):
        look += 1
        with book.changes():
            unresolved = book.unresolved()
            if look % FORGET_EVERY == 0:
                book.forget()
        for meta in unresolved:
            try:
                request = coordinator.ResolveRequest(tx=types.TxMeta.FromString(meta))
                resolver.Resolve(request, timeout=5)
            except grpc.RpcError as error:
                log.info("not resolved yet: %s", error.code())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--block", action="append", default=[], help="a user who gets no points, and so no order")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    book = books.Book(args.data)
    with book.changes():
        for user_id in args.block:
            book.block(user_id)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    services["participant"].add_ParticipantServiceServicer_to_server(Loyalty(book), server)
    if server.add_insecure_port(args.listen) == 0:
        raise SystemExit(f"cannot listen on {args.listen}")
    server.start()
    log.info("ready on %s", args.listen)
    sweeper = threading.Thread(target=sweep, args=(book, args.coordinator, stopped), daemon=True)
    sweeper.start()
    stopped.wait()
    server.stop(grace=1).wait()
    sweeper.join()


if __name__ == "__main__":
    main()
