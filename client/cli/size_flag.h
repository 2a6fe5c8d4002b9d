// A flag that takes a SIZE, as engramd's do: 0, or a number with B, KiB, MiB, GiB or TiB.
#ifndef ENGRAM_CLIENT_CLI_SIZE_FLAG_H_
#define ENGRAM_CLIENT_CLI_SIZE_FLAG_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "storage/base/size.h"

namespace engram {

// What is no size is wrong usage. `bytes` must live as long as the command.
inline CLI::Option* AddSizeFlag(CLI::App& command, const std::string& name, uint64_t& bytes,
                                const std::string& help) {
  return command
      .add_option_function<std::string>(
          name, [&bytes](const std::string& text) { bytes = ParseSize(text).value_or(0); }, help)
      ->check([](const std::string& text) {
        const auto size = ParseSize(text);
        return size.ok() ? std::string() : std::string(size.status().message());
      })
      ->type_name("SIZE");
}

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_SIZE_FLAG_H_
