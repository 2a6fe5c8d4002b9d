# What the daemon counts needs no gRPC, so that it is also built with ThreadSanitizer.
engram_library(NAME server_stats
  SRCS stats.cc
  DEPS engram::base engram::table)

if(ENGRAM_GRPC)
  engram_library(NAME server_config
    SRCS config.cc config_keys.cc
    DEPS engram::base absl::span absl::status absl::statusor absl::strings
    PRIVATE_DEPS engram::table yaml-cpp CLI11::CLI11)
  target_compile_definitions(engram_server_config PRIVATE ENGRAM_VERSION="${PROJECT_VERSION}")

  # The status page is written as HTML and compiled in.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${CMAKE_CURRENT_LIST_DIR}/status_page.html)
  file(READ ${CMAKE_CURRENT_LIST_DIR}/status_page.html ENGRAM_STATUS_PAGE_HTML)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/status_page_html.cc.in
    ${CMAKE_CURRENT_BINARY_DIR}/status_page_html.cc @ONLY)

  engram_library(NAME server_http
    SRCS http.cc metrics.cc notify.cc status_page.cc
      ${CMAKE_CURRENT_BINARY_DIR}/status_page_html.cc
    DEPS engram::base engram::server_stats absl::status absl::statusor absl::strings
    PRIVATE_DEPS engram::server_config PkgConfig::PROMETHEUS PkgConfig::HTTPLIB PkgConfig::SYSTEMD
      nlohmann_json::nlohmann_json)
endif()
