# Installs the client to a prefix of its own, builds a consumer against nothing but that prefix, runs
# it, and has the installed .proto files compiled, as a program in another language would.
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
run(${PROTOC} -I ${WORK}/prefix/share/engram/proto --python_out ${WORK}
  engram/v1/store.proto engram/v1/admin.proto)
foreach(name store admin)
  if(NOT EXISTS ${WORK}/engram/v1/${name}_pb2.py)
    message(FATAL_ERROR "no code was generated from ${name}.proto")
  endif()
endforeach()
file(REMOVE_RECURSE ${WORK})
