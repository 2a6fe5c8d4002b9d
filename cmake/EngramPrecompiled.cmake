# Precompiled headers: what most sources of a kind include, parsed once a build. A source includes
# what it uses all the same: tests/unit/arrows/includes.py checks it by the names of these headers,
# and a build with -DENGRAM_PCH=OFF has to pass.
#
# engram_library, engram_binary and engram_test take PCH NAME: lib, grpc and cli for libraries,
# program for executables, test and test_grpc for tests.
option(ENGRAM_PCH "Use precompiled headers" ON)

set(ENGRAM_PCH_STD <algorithm> <atomic> <chrono> <cstdint> <functional> <map> <memory> <optional>
  <string> <thread> <utility> <vector>)
set(ENGRAM_PCH_ABSL <absl/status/status.h> <absl/status/statusor.h> <absl/strings/str_cat.h>
  <absl/strings/string_view.h> <absl/types/span.h>)

# engram_precompile(NAME name HEADERS ... DEPS ... [OPTIONS ...] [PROGRAM]): a target that compiles
# the headers, with the flags of a library or, with PROGRAM, of an executable. Compilers refuse a
# precompiled header whose flags differ from the source's.
function(engram_precompile)
  cmake_parse_arguments(ARG "PROGRAM" "NAME" "HEADERS;DEPS;OPTIONS" ${ARGN})
  set(source ${PROJECT_BINARY_DIR}/pch/${ARG_NAME}.cc)
  if(ARG_PROGRAM)
    file(CONFIGURE OUTPUT ${source} CONTENT "int main() { return 0; }\n")
    add_executable(engram_pch_${ARG_NAME} ${source})
    # Nothing to run: it stays out of bin/.
    set_target_properties(engram_pch_${ARG_NAME} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/pch)
  else()
    file(CONFIGURE OUTPUT ${source} CONTENT "static_assert(true);\n")
    add_library(engram_pch_${ARG_NAME} OBJECT ${source})
  endif()
  target_compile_options(engram_pch_${ARG_NAME} PRIVATE ${ARG_OPTIONS})
  target_link_libraries(engram_pch_${ARG_NAME} PRIVATE engram_options ${ARG_DEPS})
  target_precompile_headers(engram_pch_${ARG_NAME} PRIVATE ${ARG_HEADERS})
endfunction()

# engram_use_precompiled(target name)
function(engram_use_precompiled target name)
  if(ENGRAM_PCH AND name)
    target_precompile_headers(${target} REUSE_FROM engram_pch_${name})
  endif()
endfunction()

if(ENGRAM_PCH)
  engram_precompile(NAME lib HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL}
    DEPS absl::span absl::status absl::statusor absl::strings)
  if(ENGRAM_TESTS)
    engram_precompile(NAME test PROGRAM OPTIONS ${ENGRAM_COLD_OPTIONS}
      HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL} <random> <gmock/gmock.h> <gtest/gtest.h>
      DEPS absl::span absl::status absl::statusor absl::strings GTest::gmock)
  endif()
endif()

# Call it after the target engram::proto is defined: protoc generates some of the headers.
macro(engram_precompile_grpc)
  if(ENGRAM_PCH)
    set(generated <engram/v1/admin.grpc.pb.h> <engram/v1/store.grpc.pb.h> <grpcpp/grpcpp.h>)
    engram_precompile(NAME grpc
      HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL} ${generated}
      DEPS engram::proto absl::span absl::status absl::statusor absl::strings)
    engram_precompile(NAME cli OPTIONS ${ENGRAM_COLD_OPTIONS}
      HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL} ${generated} <nlohmann/json.hpp>
      DEPS engram::proto absl::span absl::status absl::statusor absl::strings
        nlohmann_json::nlohmann_json)
    engram_precompile(NAME program PROGRAM OPTIONS ${ENGRAM_PROGRAM_OPTIONS}
      HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL} <random> <nlohmann/json.hpp>
      DEPS absl::span absl::status absl::statusor absl::strings nlohmann_json::nlohmann_json)
    if(ENGRAM_TESTS)
      engram_precompile(NAME test_grpc PROGRAM OPTIONS ${ENGRAM_COLD_OPTIONS}
        HEADERS ${ENGRAM_PCH_STD} ${ENGRAM_PCH_ABSL} <random> <gmock/gmock.h> <gtest/gtest.h>
          ${generated} <nlohmann/json.hpp>
        DEPS engram::proto absl::span absl::status absl::statusor absl::strings GTest::gmock
          nlohmann_json::nlohmann_json)
    endif()
  endif()
endmacro()
