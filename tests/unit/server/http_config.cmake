engram_test(NAME unit_server_stats SRCS stats_test.cc
  DEPS engram::server_stats Threads::Threads LABELS unit)

if(ENGRAM_GRPC)
  engram_test(NAME unit_server_config SRCS config_test.cc
    DEPS engram::server_config LABELS unit)
  engram_test(NAME unit_server_metrics SRCS metrics_test.cc
    DEPS engram::server_http yaml-cpp nlohmann_json::nlohmann_json LABELS unit)
  engram_test(NAME unit_server_http SRCS http_test.cc
    DEPS engram::server_http PkgConfig::HTTPLIB nlohmann_json::nlohmann_json LABELS unit)
  engram_test(NAME unit_server_notify SRCS notify_test.cc
    DEPS engram::server_http LABELS unit)
  # Both compare files of deploy/ with what the code says.
  foreach(test unit_server_config unit_server_metrics)
    target_compile_definitions(${test} PRIVATE ENGRAM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  endforeach()
endif()
