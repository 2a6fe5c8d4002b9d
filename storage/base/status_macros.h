// Early return on errors. Abseil 20220623 has no such macros of its own.
//
//   ENGRAM_RETURN_IF_ERROR(file.Sync());
//   ENGRAM_ASSIGN_OR_RETURN(auto spec, ParseTableSpec(text));
#ifndef ENGRAM_STORAGE_BASE_STATUS_MACROS_H_
#define ENGRAM_STORAGE_BASE_STATUS_MACROS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define ENGRAM_RETURN_IF_ERROR(expr)                                  \
  do {                                                                \
    if (absl::Status engram_status_ = (expr); !engram_status_.ok()) { \
      return engram_status_;                                          \
    }                                                                 \
  } while (false)

#define ENGRAM_STATUS_CONCAT_INNER_(a, b) a##b
#define ENGRAM_STATUS_CONCAT_(a, b) ENGRAM_STATUS_CONCAT_INNER_(a, b)

#define ENGRAM_ASSIGN_OR_RETURN(lhs, expr) \
  ENGRAM_ASSIGN_OR_RETURN_IMPL_(ENGRAM_STATUS_CONCAT_(engram_statusor_, __LINE__), lhs, expr)

#define ENGRAM_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) {                                    \
    return std::move(statusor).status();                   \
  }                                                        \
  lhs = *std::move(statusor)

#endif  // ENGRAM_STORAGE_BASE_STATUS_MACROS_H_
