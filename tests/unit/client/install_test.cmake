# Installs the client to a prefix of its own, builds a consumer against nothing but that prefix, runs
# it, and compiles README's snippets and, as a program in another language would, the .proto files.
# Run by ctest: cmake -DBUILD=… -DSOURCE=… -DWORK=… -DCXX=… -DPROTOC=… -P install_test.cmake
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGV} failed (${result}):\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --component client --prefix ${WORK}/prefix)
# A copy, so that nothing is found by its place in the source tree.
file(COPY ${SOURCE}/consumer DESTINATION ${WORK})
run(${CMAKE_COMMAND} -S ${WORK}/consumer -B ${WORK}/build -G Ninja
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)

# Each ```cpp block is a function's body; what it uses without declaring it are the parameters.
file(READ ${SOURCE}/../../../README.md readme)
set(program "#include \"engram/client.h\"\n#include \"engram/gpu_reader.h\"\n")
set(count 0)
string(FIND "${readme}" "```cpp" begin)
while(NOT begin EQUAL -1)
  math(EXPR begin "${begin} + 6")
  string(SUBSTRING "${readme}" ${begin} -1 readme)
  string(FIND "${readme}" "```" end)
  string(SUBSTRING "${readme}" 0 ${end} snippet)
  string(APPEND program "absl::Status Snippet${count}([[maybe_unused]] const uint32_t* ids, "
    "[[maybe_unused]] uint32_t count, [[maybe_unused]] void* out, [[maybe_unused]] void* stream) {"
    "${snippet}return absl::OkStatus();\n}\n")
  math(EXPR count "${count} + 1")
  math(EXPR end "${end} + 3")
  string(SUBSTRING "${readme}" ${end} -1 readme)
  string(FIND "${readme}" "```cpp" begin)
endwhile()
if(NOT count EQUAL 2)
  message(FATAL_ERROR "README.md has ${count} snippets of C++, not 2")
endif()
file(WRITE ${WORK}/readme.cc "${program}")
run(${CXX} -std=c++20 -fsyntax-only -Wno-unused-result -I${WORK}/prefix/include ${WORK}/readme.cc)

run(${PROTOC} -I ${WORK}/prefix/share/engram/proto --python_out ${WORK}
  engram/v1/store.proto engram/v1/admin.proto)
foreach(name store admin)
  if(NOT EXISTS ${WORK}/engram/v1/${name}_pb2.py)
    message(FATAL_ERROR "no code was generated from ${name}.proto")
  endif()
endforeach()
file(REMOVE_RECURSE ${WORK})
