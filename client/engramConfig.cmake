# What engram::client needs at link time, found as the project itself finds it.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(absl CONFIG)
# CMake's own module: it makes protobuf::libprotobuf, which gRPC's targets name.
find_dependency(Protobuf MODULE)
find_dependency(gRPC CONFIG)
include(${CMAKE_CURRENT_LIST_DIR}/engramTargets.cmake)
