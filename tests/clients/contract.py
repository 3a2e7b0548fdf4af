"""The messages of the contracts, compiled when a program starts.

Those between servers are in `stock/`, with nothing of this project's own: what
it adds to a message comes in as unknown fields, as it does at any other server.
Those that clients speak are the published ones.
"""

import importlib
import pathlib
import sys
import tempfile

from grpc_tools import protoc

_STOCK = pathlib.Path(__file__).parent / "stock"
_PUBLISHED = pathlib.Path(__file__).parents[2] / "proto"
_FOR_CLIENTS = [
    "chat/chat.proto",
    "galaxy/backend/push/v1/push.proto",
    "mpc/router/v1/message_router.proto",
    "pillarbox/push/v1/push.proto",
    "pillarbox/relay/v1/sessions.proto",
]


def _compiled(*modules):
    with tempfile.TemporaryDirectory(prefix="stock-") as out:
        files = sorted(str(file) for file in _STOCK.rglob("*.proto")) + _FOR_CLIENTS
        arguments = ["protoc", f"-I{_STOCK}", f"-I{_PUBLISHED}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(arguments + files) != 0:
            raise SystemExit("the contracts do not compile")
        sys.path.insert(0, out)
        try:
            return [importlib.import_module(module) for module in modules]
        finally:
            sys.path.remove(out)


(
    auth,
    auth_grpc,
    sync,
    sync_grpc,
    types,
    router,
    router_grpc,
    chat,
    chat_grpc,
    sessions,
    sessions_grpc,
    push,
    push_grpc,
    published,
    published_grpc,
) = _compiled(
    "protocol.auth.v1.auth_pb2",
    "protocol.auth.v1.auth_pb2_grpc",
    "protocol.sync.v1.sync_pb2",
    "protocol.sync.v1.sync_pb2_grpc",
    "protocol.harmonytypes.v1.types_pb2",
    "mpc.router.v1.message_router_pb2",
    "mpc.router.v1.message_router_pb2_grpc",
    "chat.chat_pb2",
    "chat.chat_pb2_grpc",
    "pillarbox.relay.v1.sessions_pb2",
    "pillarbox.relay.v1.sessions_pb2_grpc",
    "galaxy.backend.push.v1.push_pb2",
    "galaxy.backend.push.v1.push_pb2_grpc",
    "pillarbox.push.v1.push_pb2",
    "pillarbox.push.v1.push_pb2_grpc",
)


def lines():
    """What was compiled, as the golden list of the contracts writes it."""
    from google.protobuf import descriptor_pb2

    found = set()

    def message(scope, it):
        name = f"{scope}.{it.name}"
        found.add(f"message {name}")
        for field in it.field:
            kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
            kind = field.type_name[1:] or kind
            label = "repeated " if field.label == field.LABEL_REPEATED else ""
            oneof = f" oneof {it.oneof_decl[field.oneof_index].name}" if field.HasField("oneof_index") else ""
            found.add(f"field {name} {field.number} {label}{kind} {field.name}{oneof}")
        for nested in it.nested_type:
            message(name, nested)

    for module in (auth, sync, types):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        found.add(f"package {file.package} {file.syntax}")
        for it in file.message_type:
            message(file.package, it)
        for service in file.service:
            found.add(f"service {file.package}.{service.name}")
            for method in service.method:
                path = f"{file.package}.{service.name}/{method.name}"
                found.add(f"method {path} ({method.input_type[1:]}) returns ({method.output_type[1:]})")
    return found


def added(user, guild):
    return sync.Event(user_added_to_guild={"user_id": user, "guild_id": guild})


def removed(user, guild):
    return sync.Event(user_removed_from_guild={"user_id": user, "guild_id": guild})


def invited(user, inviter, invite):
    return sync.Event(user_invited={"user_id": user, "inviter_id": inviter, "invite_id": invite})


def rejected(user, guild, invite):
    return sync.Event(user_rejected_invite={"user_id": user, "guild_id": guild, "invite_id": invite})


def of_a_later_version():
    """An event of a kind that this contract does not have (field 5)."""
    return sync.Event.FromString(b"\x2a\x02\x08\x07")
