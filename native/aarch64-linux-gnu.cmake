# Cross-compiling with Debian's g++-aarch64-linux-gnu, and running the tests under qemu-user:
#
#     cmake -S . -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=native/aarch64-linux-gnu.cmake \
#           -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON
#     cmake --build build-aarch64 && ctest --test-dir build-aarch64
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)
