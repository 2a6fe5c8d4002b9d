# The project's two build helpers. Sources are always listed, never globbed.

# Warnings are errors on the project's own code; generated code is exempt.
set(ENGRAM_WARNINGS -Wall -Wextra -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 sees overlapping copies in std::string's operator+ (GCC bug 105651).
  list(APPEND ENGRAM_WARNINGS -Wno-restrict)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND ENGRAM_WARNINGS -Wthread-safety)
  # A time in a precompiled header would keep ccache from knowing it again.
  set(ENGRAM_PCH_OPTIONS "SHELL:-Xclang -fno-pch-timestamp")
endif()

# Every target of the project runs on any x86-64-v3 machine; wider vectors are
# chosen at run time, file by file.
add_library(engram_options INTERFACE)
# -pthread everywhere: some packages ask for it, and what shares a precompiled header needs the same.
target_compile_options(engram_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v3 -pthread>
  $<$<COMPILE_LANGUAGE:CXX>:${ENGRAM_PCH_OPTIONS}>)
target_include_directories(engram_options INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
if(ENGRAM_SANITIZE)
  target_compile_options(engram_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ENGRAM_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all>)
  target_link_options(engram_options INTERFACE -fsanitize=${ENGRAM_SANITIZE})
  if(ENGRAM_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # A seqlock needs a fence; ThreadSanitizer does not model fences, but every
    # access around ours is an atomic of its own, so nothing is hidden from it.
    target_compile_options(engram_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
  endif()
endif()

# Tests and commands are many sources of much template code that runs once: to optimise it takes
# longer than to run it, with sanitizers twice as long. The libraries that they use are optimised as
# the build says.
set(ENGRAM_COLD_OPTIONS $<IF:$<CONFIG:Release>,-O1,-O0>)
# For every program: a release build optimises them, because engram_bench is one.
set(ENGRAM_PROGRAM_OPTIONS $<$<CONFIG:Debug>:-O0>)

# engram_library(NAME name SRCS a.cc b.cc [DEPS public...] [PRIVATE_DEPS private...] [PCH name])
# One folder's library: target engram_<name>, alias engram::<name>.
function(engram_library)
  cmake_parse_arguments(ARG "" "NAME;PCH" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(NOT ARG_PCH)
    set(ARG_PCH lib)
  endif()
  add_library(engram_${ARG_NAME} STATIC ${ARG_SRCS})
  add_library(engram::${ARG_NAME} ALIAS engram_${ARG_NAME})
  set_target_properties(engram_${ARG_NAME} PROPERTIES EXPORT_NAME ${ARG_NAME})
  target_compile_options(engram_${ARG_NAME} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${ENGRAM_WARNINGS}>)
  target_link_libraries(engram_${ARG_NAME} PUBLIC ${ARG_DEPS}
    PRIVATE $<BUILD_INTERFACE:engram_options> ${ARG_PRIVATE_DEPS})
  engram_use_precompiled(engram_${ARG_NAME} ${ARG_PCH})
endfunction()

# engram_binary(NAME name SRCS main.cc [DEPS ...] [PCH name] [COLD]): an executable in bin/.
# COLD: with ENGRAM_COLD_OPTIONS.
function(engram_binary)
  cmake_parse_arguments(ARG "COLD" "NAME;PCH" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_compile_options(${ARG_NAME} PRIVATE ${ENGRAM_WARNINGS} ${ENGRAM_PROGRAM_OPTIONS})
  target_link_libraries(${ARG_NAME} PRIVATE engram_options ${ARG_DEPS})
  if(ARG_COLD)
    target_compile_options(${ARG_NAME} PRIVATE ${ENGRAM_COLD_OPTIONS})
  endif()
  engram_use_precompiled(${ARG_NAME} "${ARG_PCH}")
endfunction()

# engram_test(NAME name SRCS x_test.cc [DEPS ...] [LABELS unit] [TIMEOUT s] [ALONE filter] [MAIN]
#             [PCH name] [APART y_test.cc ...])
# One GoogleTest program a library; each of its cases is a ctest test `name.Suite.Case`, found when
# ctest runs. Cases that match `filter` run alone. A case that skips itself is reported as skipped.
# MAIN: the program has a main of its own. Sources are compiled four at a time, which takes half as
# long from nothing; APART: those that are compiled alone, because their helpers share a name with
# another's.
function(engram_test)
  cmake_parse_arguments(ARG "MAIN" "NAME;TIMEOUT;ALONE;PCH" "SRCS;DEPS;LABELS;APART" ${ARGN})
  set(main GTest::gtest_main)
  if(ARG_MAIN)
    set(main GTest::gtest)
  endif()
  engram_binary(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock ${main} COLD)
  if(NOT ARG_PCH)
    set(ARG_PCH test)
  endif()
  engram_use_precompiled(${ARG_NAME} ${ARG_PCH})
  set_target_properties(${ARG_NAME} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 4)
  set_source_files_properties(${ARG_APART} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set(properties TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
  set(rest "*")
  if(ARG_ALONE)
    set(rest "-${ARG_ALONE}")
    gtest_discover_tests(${ARG_NAME} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60
      TEST_PREFIX ${ARG_NAME}.
      TEST_FILTER "${ARG_ALONE}" PROPERTIES ${properties} RUN_SERIAL ON)
  endif()
  if(NOT rest STREQUAL "-*")
    gtest_discover_tests(${ARG_NAME} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60
      TEST_PREFIX ${ARG_NAME}.
      TEST_FILTER "${rest}" PROPERTIES ${properties})
  endif()
endfunction()
