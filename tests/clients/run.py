"""A stock Harmony peer written with another stack, from the contracts alone.

    run.py certificates DIRECTORY
    run.py SCENARIO --binary … --data-dir … (see `_arguments`)

Exits 0 when the node did as the scenario says. Needs grpcio, grpcio-tools,
cryptography and h2. `tests/clients.rs` starts a node for each scenario and runs this.
"""

import argparse
import faulthandler
import os
import pathlib
import sys

# For a scenario that hangs in spite of its own deadlines, in seconds.
AT_MOST = 100


def _arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    parser.add_argument("--binary", help="the pillarbox binary")
    parser.add_argument("--data-dir", help="of the running node")
    parser.add_argument("--server-id", help="of the node")
    parser.add_argument("--key", help="of the node, base64")
    parser.add_argument("--listen", help="where it listens")
    parser.add_argument("--certificates", type=pathlib.Path, help="what `certificates` made")
    parser.add_argument("--golden", help="the list of contracts")
    return parser.parse_args()


def main():
    faulthandler.dump_traceback_later(AT_MOST, exit=True)
    if sys.argv[1] == "certificates":
        import certificates

        return certificates.make(sys.argv[2])
    arguments = _arguments()
    import scenarios_chat
    import scenarios_gateway
    import scenarios_grpc
    import scenarios_hrpc
    import scenarios_push
    import scenarios_router
    from node import Node

    if arguments.scenario == "contract_is_stock":
        return scenarios_grpc.contract_is_stock(arguments)
    modules = (
        *(scenarios_chat, scenarios_gateway, scenarios_grpc),
        *(scenarios_hrpc, scenarios_push, scenarios_router),
    )
    [scenario] = [getattr(it, arguments.scenario) for it in modules if hasattr(it, arguments.scenario)]
    scenario(Node(arguments), arguments.certificates)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Whatever thread still waits for something: the verdict is known.
    os._exit(0)
