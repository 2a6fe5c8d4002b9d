# What engram::client needs at link time, found as the project itself finds it.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(absl CONFIG)
# CMake's own module: it makes protobuf::libprotobuf, which gRPC's targets name.
find_dependency(Protobuf MODULE)
find_dependency(gRPC CONFIG)
# engram::table's: sha256 of token maps, digests of rows, and JSON (headers only).
find_dependency(OpenSSL MODULE)
find_dependency(nlohmann_json CONFIG)
find_dependency(PkgConfig)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
# engram::base's: the ring of io_uring.
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing)
# engram::gpu_cache's, if it was built with CUDA: the runtime, linked statically.
find_package(CUDAToolkit QUIET)
include(${CMAKE_CURRENT_LIST_DIR}/engramTargets.cmake)
