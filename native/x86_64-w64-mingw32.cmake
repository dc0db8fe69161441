# Cross-compiling for Windows with Debian's g++-mingw-w64-x86-64-posix, and running the tests under Wine:
#
#     cmake -S . -B build-windows -DCMAKE_TOOLCHAIN_FILE=native/x86_64-w64-mingw32.cmake \
#           -DCROSSRANK_MODULE=OFF -DCROSSRANK_KERNEL_TEST=ON
#     cmake --build build-windows && ctest --test-dir build-windows
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)  # Wine does not have the compiler's libraries
find_program(CROSSRANK_WINE NAMES wine64 wine PATHS /usr/lib/wine)
set(CMAKE_CROSSCOMPILING_EMULATOR ${CROSSRANK_WINE})
