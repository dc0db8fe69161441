# Cross-compiling for Linux with musl (Alpine) by Zig's Clang, whose program is named in ZIG:
#
#     cmake -S . -B build-musl -DCMAKE_TOOLCHAIN_FILE=native/x86_64-linux-musl.cmake \
#           -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON
#     cmake --build build-musl && ctest --test-dir build-musl
#
# The programs are static, so any Linux of this processor runs them.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_CXX_COMPILER "$ENV{ZIG}" c++ -target x86_64-linux-musl)
