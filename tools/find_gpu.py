"""Print "NAME|COMPUTECAPABILITY" of the first GPU, as "NVIDIA H200|90"; without one say why and fail.

Asks the driver itself, so that it works before anything is built or installed.
"""

import ctypes
import sys

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def find() -> str:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise SystemExit("no NVIDIA driver (libcuda.so.1 is not there)") from None

    def call(name: str, *arguments: object) -> None:
        code = getattr(driver, name)(*arguments)
        if code != 0:
            raise SystemExit(f"the NVIDIA driver answers {name} with error {code}")

    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise SystemExit("the NVIDIA driver finds no GPU")
    call("cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(100)
    call("cuDeviceGetName", name, 100, device)
    capability = ""
    for attribute in (MAJOR, MINOR):
        call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability += str(value.value)
    return f"{name.value.decode()}|{capability}"


if __name__ == "__main__":
    print(find())
    sys.exit(0)
